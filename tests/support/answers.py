"""Made-up answers: those of two runs differ in every way that the rules tell apart."""

from tests.support.factories import make_answers, make_experiment, make_questions

CONTEXT = "The old bridge of Marrow was built by Ada Fell in the year 1810 from grey stone."

HOSTILE = "<script>alert('pwned')</script> & <img src=x onerror=alert(1)> | `a` *b* [c](d)"

HOSTILE_MARKUP = "</script><img src=x onerror=alert(1)> `x` :raw: |y| *z* .. include:: /etc/passwd"

QUESTIONS = [
    {"id": "found", "question": "Who built it?", "context": CONTEXT, "answers": ["Ada Fell"]},
    {"id": "lost", "question": "In which year?", "context": CONTEXT, "answers": ["1810"]},
    {"id": "wider", "question": "What stone?", "context": CONTEXT, "answers": ["grey stone"]},
    {"id": "cut", "question": "When?", "context": CONTEXT, "answers": ["the year 1810"]},
    {"id": "open", "question": "How many arches?", "context": CONTEXT, "answers": []},
    {"id": "fooled", "question": "Why stone?", "context": CONTEXT, "answers": []},
    {
        "id": "hostile",
        "title": HOSTILE,
        "question": f"Who is {HOSTILE}?",
        "context": f"It is {HOSTILE} of course.",
        "answers": [HOSTILE],
    },
]

# The best answer to each question and its null odds: if they are below 0, the answer is given.
BASELINE = {
    "found": ("Ada Fell", 2.0),
    "lost": ("1810", -2.0),
    "wider": ("stone", -2.0),
    "cut": ("the year 1810", -2.0),
    "open": ("1810", -2.0),
    "fooled": ("stone", 2.0),
    "hostile": ("It", 2.0),
}

MIXTURE = {
    "found": ("Ada Fell", -2.0),
    "lost": ("1810", 2.0),
    "wider": ("grey stone", -2.0),
    "cut": ("1810", -2.0),
    "open": ("1810", 2.0),
    "fooled": ("stone", -2.0),
    "hostile": (HOSTILE, -2.0),
}


def make(folder, baseline=BASELINE, mixture=MIXTURE, questions=QUESTIONS, seeds=(1,)):
    """Write scored runs of table 2; QA gives the baseline's answers, other rows the mixture's."""
    experiment = make_experiment(folder, seeds=list(seeds), slices={"dev": {"label": "dev"}})
    make_questions(experiment, questions)
    for row in experiment.tables["table2"].rows:
        for run in experiment.runs_of(row):
            make_answers(experiment, run, baseline if row.mixture == "qa" else mixture)
    return experiment
