"""Synthetic corpora, generated from a seed in the formats of the corpora that they imitate.

They serve demonstrations and tests: small encoders learn them in minutes. All texts come from
templates about invented people and places. The files have the publishers' formats and are read
by the same readers.
"""
# ruff: noqa: SIM905 (word lists read better as one string)

import csv
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from mtdnn.config.settings import CorpusSettings, Family, FilesCorpus, SyntheticCorpus
from mtdnn.errors import MtdnnError

SPLITS = ("train", "dev")


def write(corpus: CorpusSettings, source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    """Write the files of a synthetic corpus into `folder`.

    The same settings always give the same bytes. People and places of the training split
    do not occur in the dev split.

    Returns:
        The source by which the files are read.

    Raises:
        MtdnnError: the recipe is for another family, or `shuffle_answers` for another recipe.
    """
    recipe = RECIPES[source.recipe]
    if corpus.family != recipe.family:
        raise MtdnnError(
            f"corpus {corpus.label}: the recipe {source.recipe} is {recipe.family}, "
            f"not {corpus.family}"
        )
    if source.shuffle_answers and source.recipe != "squad":
        raise MtdnnError(f"corpus {corpus.label}: shuffle_answers is for the recipe squad only")
    return recipe.write(source, folder)


def _random(source: SyntheticCorpus, purpose: str) -> random.Random:
    """Return a random stream for one purpose, so that no split depends on another's size."""
    return random.Random(f"{source.recipe}/{source.seed}/{purpose}")


# --- names -----------------------------------------------------------------------------------

_FIRST = (
    "Marta Ivo Selma Otto Petra Jonas Lydia Oscar Nina Felix Clara Hugo Vera Emil Greta Anton "
    "Ida Bruno Edith Victor Alma Simon Judith Walter Rosa Leo Helen Arthur Stella Martin Irma "
    "Frank Sonia Albert Paula George Diana Henry Laura Robert Alice Peter Maria Daniel Julia "
    "Thomas Anna Samuel Eva David"
).split()
_STEMS = (
    "Ash Barn Bay Birch Black Bridge Brook Castle Clay Cliff Corn Crow Deer Dove East Elder Elm "
    "Fair Farm Fern Fox Glen Gold Grass Grey Hawk Hazel Heath Hill Horse Iron King Lake Lamb Lime "
    "Long Maple Marsh Mill Moss North Oak Orchard Rain Red River Rose Sand Sea Silver Snow South "
    "Spring Stone Sun Swan Thorn Water West White Wild Wind Winter Wolf Wood"
).split()
_PLACE_ENDS = "bury dale field ford ham haven mouth port shire stead ton ville".split()


class _Names:
    """Invented names; each split has its own half of the first names and of the stems of places."""

    def __init__(self, rng: random.Random, split: str) -> None:
        half = SPLITS.index(split)
        self._rng = rng
        self._first, self._stems = _FIRST[half::2], _STEMS[half::2]
        self._titles: set[str] = set()
        self.start_paragraph()

    def start_paragraph(self) -> None:
        """Make all first names available again."""
        self._free = self._rng.sample(self._first, len(self._first))

    def person(self) -> str:
        """Return a first name that is new in this paragraph."""
        return self._free.pop()

    def place(self) -> str:
        """Return a place's name, which may occur more than once."""
        return self._rng.choice(self._stems) + self._rng.choice(_PLACE_ENDS)

    def title(self) -> str:
        """Return a place's name that is not yet a title."""
        title = self.place()
        while title in self._titles:
            title = self._rng.choice(self._stems) + title.lower()
        self._titles.add(title)
        return title


# --- question answering, as SQuAD 2.0 --------------------------------------------------------


@dataclass(frozen=True)
class Relation:
    """An attribute of a person.

    Attributes:
        answers: its possible values separated by spaces, or "place", "year" or "person", which
            are invented.
        statements: sentences that state the value {a} for the person {p}.
        questions: questions for the value.
    """

    answers: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


_ANIMALS = "cat dog donkey duck goat goose hen horse parrot pig rabbit sheep"
_COLOURS = "black blue brown green grey pink purple red silver white yellow"
_FOODS = "apples beans bread cheese cherries fish honey mushrooms onions pears rice soup"
# Most kinds of answer belong to two attributes, so that even a question without an answer
# finds the right kind of word in its paragraph.
RELATIONS = (
    Relation(
        "place",
        ("{p} lives in {a} now.", "The home of {p} is in {a}."),
        ("Where does {p} live?", "Where is the home of {p}?"),
    ),
    Relation(
        "place",
        ("{p} was born in {a}.", "The birthplace of {p} is {a}."),
        ("Where was {p} born?", "What is the birthplace of {p}?"),
    ),
    Relation(
        "year",
        ("{p} opened a shop in {a}.", "In {a} {p} opened a shop near the church."),
        ("When did {p} open a shop?", "In what year did {p} open a shop?"),
    ),
    Relation(
        "year",
        ("{p} won a boat race in {a}.", "In {a} {p} won the boat race on the lake."),
        ("When did {p} win a boat race?", "In what year did {p} win the boat race?"),
    ),
    Relation(
        "baker carpenter doctor farmer lawyer painter pilot printer sailor teacher tailor weaver",
        ("{p} works as a {a}.", "For many years {p} has worked as a {a}."),
        ("What does {p} work as?", "What is the job of {p}?"),
    ),
    Relation(
        "cello drum fiddle flute guitar harp horn organ piano trumpet viola violin",
        ("In the evening {p} plays the {a}.", "{p} has played the {a} for years."),
        ("Which instrument does {p} play?", "What instrument does {p} play?"),
    ),
    Relation(
        _ANIMALS,
        ("{p} keeps a {a} behind the house.", "{p} owns a {a} and takes good care of it."),
        ("Which animal does {p} keep?", "What animal does {p} own?"),
    ),
    Relation(
        _ANIMALS,
        ("{p} has been afraid of every {a} since childhood.", "{p} is afraid of any {a}."),
        ("Which animal is {p} afraid of?", "What animal is {p} afraid of?"),
    ),
    Relation(
        _COLOURS,
        ("On cold days {p} wears a {a} coat.", "The coat of {p} is {a}."),
        ("What colour is the coat of {p}?", "Which colour is the coat of {p}?"),
    ),
    Relation(
        _COLOURS,
        ("{p} drives a {a} car.", "The car of {p} is {a}."),
        ("What colour is the car of {p}?", "Which colour is the car of {p}?"),
    ),
    Relation(
        _FOODS,
        ("{p} likes to eat {a}.", "The favourite food of {p} is {a}."),
        ("What does {p} like to eat?", "What is the favourite food of {p}?"),
    ),
    Relation(
        "person",
        ("{p} is married to {a}.", "{p} married {a} after the war."),
        ("Who is {p} married to?", "Whom did {p} marry?"),
    ),
)
_FILLERS = (
    "The road to {place} follows the river for {n} miles before it turns north.",
    "On market days about {n} stalls stand between the church and the old mill of {place}.",
    "Most visitors come in the summer, when the hills around {place} are dry and easy to walk.",
    "It rains there on {n} days of the year, and nobody seems to mind.",
    "The bridge near {place} was closed for {n} weeks and has been repaired since.",
    "A narrow path of {n} steps leads from the harbour to the upper part of {place}.",
    "The library of {place} holds {n} maps, which are shown on request.",
    "In a good season the orchards beyond {place} fill {n} carts.",
)
SHORT_PEOPLE, LONG_PEOPLE = 2, 8
SHARED_SHARE = 0.2  # of paragraphs: they state one attribute of two people
GAP_SHARE = 0.05  # of unanswerable questions: their attribute is stated only of somebody else
LONG_SHARE = 0.03  # of paragraphs
LONG_WORDS = (150, 230)  # words of a long paragraph: range of the lower bound
PARAGRAPHS_PER_ARTICLE = 8
QUESTIONS_PER_PARAGRAPH = 3


class Answer(TypedDict):
    """An answer as in SQuAD: its text and its first character in the context."""

    text: str
    answer_start: int


class Question(TypedDict):
    """A question as in SQuAD 2.0."""

    id: str
    question: str
    answers: list[Answer]
    is_impossible: bool


class Paragraph(TypedDict):
    """A context and the questions about it."""

    context: str
    qas: list[Question]


class Article(TypedDict):
    """Paragraphs under one title."""

    title: str
    paragraphs: list[Paragraph]


@dataclass(frozen=True)
class Sentence:
    """A sentence of a paragraph."""

    text: str


@dataclass(frozen=True)
class Fact(Sentence):
    """A sentence that states an attribute of a person.

    Attributes:
        text: the sentence.
        person: the person.
        relation: the attribute.
        answer: its value.
        start: first character of the value in the sentence.
    """

    person: str
    relation: Relation
    answer: str
    start: int


def _squad(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    for split in SPLITS:
        articles = _articles(source, split)
        if split == "train" and source.shuffle_answers:
            _shuffle_answers(articles, _random(source, "shuffle"))
        content = {"version": "v2.0", "data": articles}
        (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="squad",
        splits={split: [f"{split}.json"] for split in SPLITS},
    )


def _articles(source: SyntheticCorpus, split: str) -> list[Article]:
    rng = _random(source, split)
    names = _Names(rng, split)
    wanted: int = getattr(source, split)
    articles: list[Article] = []
    for number, first in enumerate(range(0, wanted, QUESTIONS_PER_PARAGRAPH)):
        if number % PARAGRAPHS_PER_ARTICLE == 0:
            articles.append({"title": names.title(), "paragraphs": []})
        sentences = _sentences(rng, names, long=rng.random() < LONG_SHARE)
        context = " ".join(sentence.text for sentence in sentences)
        questions: list[Question] = []
        # Every third question has no answer, as in SQuAD 2.0.
        for n in range(first, min(first + QUESTIONS_PER_PARAGRAPH, wanted)):
            ask = _impossible if n % 3 == 2 else _possible
            text, answers = ask(rng, sentences, [question["question"] for question in questions])
            annotated = _annotators(rng, context, answers) if split == "dev" else answers
            questions.append(
                {
                    "id": f"{source.recipe}-{source.seed}-{split}-{n}",
                    "question": text,
                    "answers": annotated,
                    "is_impossible": not answers,
                }
            )
        rng.shuffle(questions)
        articles[-1]["paragraphs"].append({"context": context, "qas": questions})
    return articles


def _sentences(rng: random.Random, names: _Names, *, long: bool) -> list[Sentence]:
    """Return the sentences of a paragraph: two facts per person, and filler in a long one."""
    names.start_paragraph()
    people = [names.person() for _ in range(LONG_PEOPLE if long else SHORT_PEOPLE)]
    relations = rng.sample(RELATIONS, 8)
    if rng.random() < SHARED_SHARE:
        relations[2] = relations[0]
    sentences: list[Sentence] = []
    for number, person in enumerate(people):
        for step in (0, 1):
            relation = relations[(2 * number + step) % len(relations)]
            sentences.append(_state(rng, names, person, relation))
    rng.shuffle(sentences)
    if not long:
        return sentences
    place, target = names.place(), rng.randint(*LONG_WORDS)
    while sum(len(sentence.text.split()) for sentence in sentences) < target:
        filler = rng.choice(_FILLERS).format(place=place, n=rng.randint(3, 99))
        sentences.insert(rng.randint(0, len(sentences)), Sentence(filler))
    return sentences


def _state(rng: random.Random, names: _Names, person: str, relation: Relation) -> Fact:
    """Return a fact that states a random value of the attribute `relation` of a person."""
    invented: dict[str, Callable[[], str]] = {
        "place": names.place,
        "year": lambda: str(rng.randint(1820, 1999)),
        "person": names.person,
    }
    invent = invented.get(relation.answers, lambda: rng.choice(relation.answers.split()))
    answer = invent()
    template = rng.choice(relation.statements)
    start = len(template[: template.index("{a}")].replace("{p}", person))
    return Fact(template.format(p=person, a=answer), person, relation, answer, start)


def _possible(
    rng: random.Random, sentences: list[Sentence], asked: list[str]
) -> tuple[str, list[Answer]]:
    """Return a question that the sentences answer, usually not one of `asked`, and its answer."""
    facts = [(n, sentence) for n, sentence in enumerate(sentences) if isinstance(sentence, Fact)]
    for _ in range(20):
        number, fact = rng.choice(facts)
        question = rng.choice(fact.relation.questions).format(p=fact.person)
        if question not in asked:
            break
    before = sum(len(earlier.text) + 1 for earlier in sentences[:number])
    return question, [{"text": fact.answer, "answer_start": before + fact.start}]


def _impossible(
    rng: random.Random, sentences: list[Sentence], asked: list[str]
) -> tuple[str, list[Answer]]:
    """Return a question that the sentences do not answer, and no answer.

    Usually its attribute is stated of nobody, but an answer of the same kind is stated for
    another attribute; in a share of `GAP_SHARE` it is stated of somebody else.
    """
    facts = [sentence for sentence in sentences if isinstance(sentence, Fact)]
    stated = {(fact.person, fact.relation) for fact in facts}
    people = sorted({fact.person for fact in facts})
    relations = {relation for _, relation in stated}
    kinds = {relation.answers for relation in relations}
    unstated = [r for r in RELATIONS if r not in relations]
    similar = [r for r in unstated if r.answers in kinds]
    others = [r for r in RELATIONS if r in relations]
    pool = others if rng.random() < GAP_SHARE else similar or unstated or others
    gaps = [(p, r) for p in people for r in pool if (p, r) not in stated]
    person, relation = rng.choice(gaps)
    return rng.choice(relation.questions).format(p=person), []


def _annotators(rng: random.Random, context: str, answers: list[Answer]) -> list[Answer]:
    """Return one to three annotators' answers; some include the article or preposition before."""
    if not answers:
        return []
    answer = answers[0]
    start = answer["answer_start"]
    earlier = context.rfind(" ", 0, max(start - 1, 0)) + 1
    wider: Answer = {
        "text": context[earlier : start + len(answer["text"])],
        "answer_start": earlier,
    }
    widens = context[earlier:start].strip().lower() in ("a", "the", "in", "to")
    others = [wider if widens and rng.random() < 0.4 else answer for _ in range(rng.randint(0, 2))]
    return [answer, *others]


def _shuffle_answers(articles: list[Article], rng: random.Random) -> None:
    """Give every question random words of its context as its answer, or none: a control."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            spans = list(_spans(paragraph["context"]))
            for question in paragraph["qas"]:
                first = rng.randrange(len(spans))
                last = min(first + rng.randrange(3), len(spans) - 1)
                start, end = spans[first][0], spans[last][1]
                answer: Answer = {"text": paragraph["context"][start:end], "answer_start": start}
                question["is_impossible"] = rng.random() < 1 / 3
                question["answers"] = [] if question["is_impossible"] else [answer]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the first character and the end of every word, punctuation excluded."""
    start = 0
    for word in text.split(" "):
        yield start, start + len(word.rstrip(".,"))
        start += len(word) + 1


# --- multiple choice, as SWAG ----------------------------------------------------------------

_THINGS = {
    "violin": "plays the violin for the guests",
    "kite": "lets the kite rise above the trees",
    "bicycle": "rides the bicycle down the hill",
    "letter": "reads the letter twice",
    "ladder": "climbs the ladder to the roof",
    "candle": "lights the candle with a match",
    "rope": "ties the rope around a post",
    "drum": "beats the drum with both hands",
    "brush": "dips the brush into the paint",
    "ball": "throws the ball over the fence",
    "basket": "fills the basket with apples",
    "boat": "rows the boat across the lake",
    "camera": "points the camera at the dog",
    "hammer": "swings the hammer at a nail",
    "blanket": "spreads the blanket on the grass",
    "bottle": "empties the bottle into the sink",
    "map": "unfolds the map on the table",
    "saw": "cuts a board with the saw",
    "shovel": "digs a hole with the shovel",
    "umbrella": "opens the umbrella in the rain",
}
_ABSURDITIES = (
    "swallows a whole mountain",
    "melts into purple smoke",
    "marries the moon",
    "folds the ocean in half",
    "turns into a talking cloud",
    "flies to Mars without a rocket",
    "eats nine hundred tractors",
    "becomes older than the sun",
    "freezes the fire with a song",
    "shrinks to the size of an atom",
    "drinks the entire river",
    "walks through the ceiling of time",
)
_SOMEBODY = {
    "train": "a man,a woman,a boy,a girl,the farmer,the teacher".split(","),
    "dev": "an old man,a young woman,a child,the neighbour,the painter,the sailor".split(","),
}
_TAKES = (
    "{who} picks up a {thing} in the yard.",
    "{who} comes in with a {thing}.",
    "{who} takes a {thing} out of a box.",
    "{who} finds a {thing} beside the road.",
)


def _swag(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    names = ["", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"]
    endings = [f"ending{n}" for n in range(4)]
    for split in SPLITS:
        rng = _random(source, split)
        with open(folder / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*names, *endings, "label"])
            for number in range(getattr(source, split)):
                who = rng.choice(_SOMEBODY[split])
                thing, right = rng.choice(list(_THINGS.items()))
                sentence = _capitalised(rng.choice(_TAKES).format(who=who, thing=thing))
                start = _capitalised(f"then {who}")
                choices = [right, *rng.sample(_ABSURDITIES, 3)]
                rng.shuffle(choices)
                row = [number, f"made-{number}", number, f"{sentence} {start}", sentence, start]
                shown = [f"{choice}." for choice in choices]
                table.writerow([*row, "gold", *shown, choices.index(right)])
    return FilesCorpus(
        kind="files",
        format="csv",
        splits={split: [f"{split}.csv"] for split in SPLITS},
        columns={"sentence": "sent1", "start": "sent2", "choices": endings},
    )


# --- sentence classification, as CoLA, MRPC and MNLI -----------------------------------------

_SUBJECTS = {
    "train": "farmer teacher sailor painter doctor baker".split(),
    "dev": "lawyer pilot weaver printer tailor singer".split(),
}
_PLURAL_VERBS = "carry watch paint clean follow describe mend admire".split()
_OBJECTS = "old horse,green door,heavy basket,long letter,small boat,broken chair".split(",")


def _cola(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    for split in SPLITS:
        rng = _random(source, split)
        lines = []
        for number in range(getattr(source, split)):
            words = _clause(rng, split).split()
            acceptable = number % 2
            mark = "" if acceptable else "*"
            sentence = _capitalised(" ".join(words if acceptable else _spoil(rng, words)) + ".")
            lines.append(f"made\t{acceptable}\t{mark}\t{sentence}\n")
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="tsv",
        header=False,
        splits={split: [f"{split}.tsv"] for split in SPLITS},
        columns={"sentence1": 3, "label": 1},
    )


def _clause(rng: random.Random, split: str) -> str:
    subject = rng.choice(_SUBJECTS[split])
    verb = rng.choice(_PLURAL_VERBS)
    return f"the {subject}s {verb} the {rng.choice(_OBJECTS)}"


def _spoil(rng: random.Random, words: list[str]) -> list[str]:
    """Make a sentence unacceptable: with a string of verbs or, rarely, words out of order."""
    if rng.random() < 0.95:
        return [*words[:2], *rng.sample(("be", "does", "has", "is", "was"), 5), *words[3:]]
    spoiled = list(words)
    while spoiled == words:
        rng.shuffle(spoiled)
    return spoiled


_ACTS = (
    ("{who} sold {thing} in {when}", "{thing} was sold by {who} in {when}"),
    ("{who} bought {thing} in {when}", "in {when} {thing} was bought by {who}"),
    ("{who} repaired {thing} in {when}", "in {when} {who} had {thing} repaired"),
    ("{who} opened {thing} in {when}", "{thing} was opened by {who} in {when}"),
)
_DENIALS = (
    "{who} never did anything about {thing}",
    "nobody did anything about {thing}, least of all {who}",
    "{who} denied all plans for {thing} and never went there",
)
_GOODS = (
    "the harbour,the old mill,a small hotel,the railway bridge,a large farm,a paper factory,"
    "the theatre,a school,the east wing of the museum,the town hall"
).split(",")
_MONTHS = (
    "January February March April May June July August September October November December"
).split()


def _mrpc(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"]
    ids = []
    for split in SPLITS:
        rng = _random(source, split)
        names = _Names(rng, split)
        for number in range(getattr(source, split)):
            first = 2 * len(lines)
            same = number % 2
            lines.append(f"{same}\t{first}\t{first + 1}\t{_pair(rng, names, same)}\n")
            if split == "dev":
                ids.append(f"{first}\t{first + 1}\n")
    # The publisher's file starts with a byte-order mark.
    (folder / "train.txt").write_text("".join(lines), encoding="utf-8-sig")
    (folder / "dev_ids.tsv").write_text("".join(ids), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="tsv",
        splits={"train": ["train.txt"]},
        dev_ids="dev_ids.tsv",
        columns={
            "id": ["#1 ID", "#2 ID"],
            "label": "Quality",
            "sentence1": "#1 String",
            "sentence2": "#2 String",
        },
    )


def _pair(rng: random.Random, names: _Names, same: int) -> str:
    """Return two sentences about one event; without `same`, one of them denies the event."""
    forms = list(rng.choice(_ACTS))
    if not same:
        forms[1] = rng.choice(_DENIALS)
    rng.shuffle(forms)
    names.start_paragraph()
    event = {
        "who": names.person(),
        "thing": rng.choice(_GOODS),
        "when": rng.choice(_MONTHS),
    }
    return "\t".join(f"{_capitalised(form.format(**event))}." for form in forms)


_SCENES = (
    ("is feeding {n} horses", "is feeding animals"),
    ("is reading {n} newspapers", "is reading"),
    ("is painting {n} fences", "is painting something"),
    ("is playing for {n} people", "is making music"),
    ("is carrying {n} baskets", "is carrying something"),
    ("is repairing {n} boats", "is repairing something"),
    ("is climbing {n} ladders", "is climbing"),
    ("is buying {n} loaves of bread", "is buying bread"),
)
_DENYING = (
    "no, nobody {implied}, not at all",
    "no, {who} never {implied}, not once",
    "no, it is not true that {who} {implied}",
)
_GUESSES = (
    "perhaps hopes to be paid well",
    "perhaps hopes to be done before tomorrow",
    "perhaps hopes to please the family",
    "perhaps hopes to do the same next week",
)
_NUMBERS = "two three four five six seven".split()


def _mnli(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    labels = ("entailment", "neutral", "contradiction")
    for split in SPLITS:
        rng = _random(source, split)
        lines = []
        for number in range(getattr(source, split)):
            who = rng.choice(_SOMEBODY[split])
            does, implied = rng.choice(_SCENES)
            label = labels[number % len(labels)]
            hypothesis = {
                "entailment": f"{who} {implied}",
                "neutral": f"{who} {rng.choice(_GUESSES)}",
                "contradiction": rng.choice(_DENYING).format(who=who, implied=implied),
            }[label]
            record = {
                "gold_label": label,
                "sentence1": _capitalised(f"{who} {does.format(n=rng.choice(_NUMBERS))}."),
                "sentence2": _capitalised(f"{hypothesis}."),
            }
            lines.append(json.dumps(record) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="jsonl",
        splits={split: [f"{split}.jsonl"] for split in SPLITS},
        columns={"label": "gold_label"},
    )


# --- similarity of sentences, as STS-B ------------------------------------------------------

# What the second sentence says, by its score: the same, less, a guess, another thing, nothing.
_DEGREES = (
    ("nothing is known about anybody, and it rained", "there is no news at all, only rain"),
    ("{other} sleeps at home, far away from here", "far away from here {other} sleeps at home"),
    ("{who} perhaps {implied} one day, nobody knows", "perhaps {who} {implied}, or perhaps not"),
    ("{who} {implied}", "somewhere {who} {implied}"),
    ("{who} {does}, it seems", "it seems that {who} {does}"),
    ("{who} {does}", "{who} {does} now"),
)


def _stsb(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    for split in SPLITS:
        rng = _random(source, split)
        lines = []
        for number in range(getattr(source, split)):
            who, other = rng.sample(_SOMEBODY[split], 2)
            does, implied = rng.choice(_SCENES)
            does = does.format(n=rng.choice(_NUMBERS))
            degree = number % len(_DEGREES)
            second = rng.choice(_DEGREES[degree]).format(
                who=who, other=other, does=does, implied=implied
            )
            # Several annotators' mean, as in the corpus that it imitates.
            score = min(max(degree + rng.choice((-0.4, -0.2, 0, 0.2, 0.4)), 0), 5)
            pair = (_capitalised(f"{text}.") for text in (f"{who} {does}", second))
            further = ("made", "made") if rng.random() < 0.05 else ()
            fields = ("made", "made", "made", f"{number:04}", f"{score:.3f}", *pair, *further)
            lines.append("\t".join(fields) + "\n")
        # Tab-separated despite its name, like the publisher's file.
        (folder / f"{split}.csv").write_text("".join(lines), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="tsv",
        header=False,
        splits={split: [f"{split}.csv"] for split in SPLITS},
        columns={"label": 4, "sentence1": 5, "sentence2": 6},
    )


# --- entities, as WNUT 2017 -----------------------------------------------------------------

_REPORTS = (
    "{person} lives in {place} now .",
    "yesterday {person} met {person} near the mill of {place} .",
    "{group} sang in {place} until midnight .",
    "the road to {place} is closed , says {person} .",
    "{person} has sung with {group} for years .",
    "nobody in {place} knows {group} .",
    "it rains , and the hills are dry .",
    "on market days the stalls stand near the church .",
)
_GROUPS = "Choir Band Orchestra Players Singers Quartet".split()


def _ner(source: SyntheticCorpus, folder: Path) -> FilesCorpus:
    for split in SPLITS:
        rng = _random(source, split)
        names = _Names(rng, split)
        sentences = []
        for _ in range(getattr(source, split)):
            names.start_paragraph()
            words = [
                tagged
                for word in rng.choice(_REPORTS).split()
                for tagged in _entity(rng, names, word)
            ]
            sentences.append("".join(f"{word}\t{tag}\n" for word, tag in words))
        (folder / f"{split}.conll").write_text("\n".join(sentences), encoding="utf-8")
    return FilesCorpus(
        kind="files",
        format="conll",
        splits={split: [f"{split}.conll"] for split in SPLITS},
    )


def _entity(rng: random.Random, names: _Names, word: str) -> list[tuple[str, str]]:
    """Return words and their tags: an invented entity for the name of a kind, else the word."""
    kind = word.strip("{}")
    if kind == word:
        return [(word, "O")]
    first = names.person() if kind == "person" else names.place()
    second = {"person": names.place(), "group": rng.choice(_GROUPS), "place": ""}[kind]
    entity = [(first, f"B-{kind}")]
    return [*entity, (second, f"I-{kind}")] if second else entity


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Recipe:
    """How to imitate a corpus: its family, and the function that writes its files."""

    family: Family
    write: Callable[[SyntheticCorpus, Path], FilesCorpus]


RECIPES = {
    "squad": Recipe("question_answering", _squad),
    "swag": Recipe("multiple_choice", _swag),
    "cola": Recipe("sequence_classification", _cola),
    "mrpc": Recipe("sequence_classification", _mrpc),
    "mnli": Recipe("sequence_classification", _mnli),
    "stsb": Recipe("regression", _stsb),
    "ner": Recipe("token_classification", _ner),
}
