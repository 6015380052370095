"""Draw what was measured on GPUs into NOTES.md, from the records that gpu.py left: `make notes`.

Records are the files records/*.jsonl beside this one. Only the part of NOTES.md between two
comments is replaced. A record of a rehearsal is refused: it measures nothing.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("records")
NOTES = Path(__file__).with_name("NOTES.md")
BEGIN = "<!-- from here on drawn from records/ by `make notes` -->"
END = "<!-- up to here -->"

Line = dict[str, Any]


class Refused(Exception):
    """A record that cannot be drawn; the message names file, line and remedy."""


@dataclass
class Group:
    """All lines of a device and a commit.

    Attributes:
        device: the name of the device.
        commit: that of the code; None if it was unknown.
        lines: what was recorded, oldest first.
    """

    device: str
    commit: str | None
    lines: list[Line] = field(default_factory=list)

    def find(self, section: str, case: str, **values: Any) -> Line:
        """Return the latest line of a case that measured something; empty without one."""
        wanted = {"section": section, "case": case, **values}
        for line in reversed(self.lines):
            failed = "failed" in line or "left_out" in line
            if wanted.items() <= line.items() and not failed:
                return line
        return {}

    def of(self, *sections: str) -> list[Line]:
        """Return the lines of some sections."""
        return [line for line in self.lines if line["section"] in sections]


# --- reading ---------------------------------------------------------------------------------


def read(folder: Path) -> list[Group]:
    """Return the groups of all records of a folder, in the order of the files' names.

    Raises:
        Refused: a line cannot be read, or is one of a rehearsal.
    """
    groups: dict[tuple[str, str | None], Group] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.parent.name}/{path.name}: line {number}"
            try:
                line = json.loads(text)
                device, commit, rehearsal = (line[n] for n in ("device", "commit", "rehearsal"))
                line["section"], line["case"]
            except (ValueError, TypeError, KeyError):
                raise Refused(f"{where}: no result of gpu.py; remove the line") from None
            if rehearsal is not False:
                raise Refused(f"{where}: of a rehearsal, which measures nothing; remove the file")
            group = groups.setdefault((device, commit), Group(device, commit))
            group.lines.append(line)
    return list(groups.values())


# --- goals -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was found about a goal: in words, and whether it was reached."""

    words: str
    reached: bool


@dataclass(frozen=True)
class Goal:
    """What the project wants of a GPU.

    Attributes:
        what: what is measured.
        goal: what it should be.
        find: reads it from a group; None if it was not measured.
    """

    what: str
    goal: str
    find: Callable[[Group], Found | None]


def _holds(*sections: str) -> Callable[[Group], Found | None]:
    """Whether everything that sections checked is right, at every try."""

    def find(group: Group) -> Found | None:
        lines = group.of(*sections)
        checks = [line["right"] for line in lines if "right" in line]
        cases = {line["case"] for line in lines}
        if not checks and not cases & {"done", "failed"}:
            return None
        whole = "done" in cases and "failed" not in cases
        words = f"{sum(checks)} of {len(checks)}" + ("" if whole else ", not to its end")
        return Found(words, whole and all(checks) and bool(checks))

    return find


def _at_least(bound: float, *cases: str) -> Callable[[Group], Found | None]:
    """The smallest ratio of some peers' QA steps to ours, base."""

    def find(group: Group) -> Found | None:
        lines = [line for case in cases if (line := group.find("peers", case, shape="base"))]
        if not lines:
            return None
        line = min(lines, key=lambda line: line["ratio"])
        return Found(f"{_ratio(line)}{_which(line, cases)}", line["ratio"] >= bound)

    return find


def _which(line: Line, cases: tuple[str, ...]) -> str:
    return f", {_peer(line['case'])[1]}" if len(cases) > 1 else ""


def _value(
    section: str, case: str, name: str, bound: float, form: str, scale: float = 1.0, **where: str
) -> Callable[[Group], Found | None]:
    """A value, which a positive bound limits from above and a negative one from below."""

    def find(group: Group) -> Found | None:
        line = group.find(section, case, **where)
        if name not in line:
            return None
        value = line[name] * scale
        return Found(form.format(value), value <= bound if bound > 0 else value >= -bound)

    return find


def _memory(group: Group) -> Found | None:
    line = group.find("peers", "memory", shape="base")
    if not line:
        return None
    ratio = line["ours_mib"] / line["peer_mib"]
    return Found(f"{ratio:.2f}", ratio <= 0.6)


def _utilisation(part: str, shape: str, percent: float) -> Callable[[Group], Found | None]:
    name = f"{part}_utilisation"
    return _value("peers", "utilisation", name, -percent, "{:.1f} %", 100, shape=shape)


GOALS = (
    Goal("`attention`: parity, no leak, bits, dropout", "all hold", _holds("attention")),
    Goal("`steps`: recorded and resumed, equal in every bit", "all hold", _holds("steps")),
    Goal("`failure`: a failed recording changes nothing", "all hold", _holds("failure")),
    Goal("`commands`: `mtdnn train`, stopped and resumed", "all hold", _holds("commands")),
    Goal("QA step, base: `Trainer`, padded", "≥ 3 times", _at_least(3, "qa_step_trainer_padded")),
    Goal(
        "… `Trainer`, dynamic and grouped",
        "≥ 1.8 times",
        _at_least(1.8, "qa_step_trainer_dynamic_grouped"),
    ),
    Goal(
        "… its compiled best",
        "≥ 1.3 times",
        _at_least(
            1.3, "qa_step_trainer_padded_compiled", "qa_step_trainer_dynamic_grouped_compiled"
        ),
    ),
    Goal("MFU of forward and backward, base", "≥ 35 %", _utilisation("backward", "base", 35)),
    Goal("… large", "≥ 45 %", _utilisation("backward", "large", 45)),
    Goal("… whole step, base", "≥ 30 %", _utilisation("step", "base", 30)),
    Goal(
        "CoLA step, base",
        "≤ 3.5 ms",
        _value("peers", "sc_step_trainer_dynamic", "ours_s", 3.5, "{:.2f} ms", 1e3, shape="base"),
    ),
    Goal(
        "recording, share of a whole run's time",
        "≤ 5 %",
        _value("recording", "whole_run", "share", 5, "{:.1f} %", 100),
    ),
    Goal(
        "the paper's nine runs, one seed",
        "≤ 30 min",
        _value("paper", "nine_runs", "seconds", 30, "{:.1f} min", 1 / 60),
    ),
    Goal("peak memory of a QA step, base: ours / padded", "≤ 0.6", _memory),
)

PUBLISHED = """\
For orientation, the nearest published figures, of other work on other data: BERT-large on SQuAD, 110.5
sequences/s in fp16 on one A100-80GB (NVIDIA DeepLearningExamples, PyTorch); BERT-large in pretraining,
about 970 sequences/s for each H100 (MLPerf v3.0); ModernBERT-base, about 304,000 tokens/s for each H100.\
"""  # noqa: E501


# --- drawing ---------------------------------------------------------------------------------


def draw(groups: list[Group]) -> str:
    """Return the part of NOTES.md: goals, and the tables of each group."""
    if groups:
        parts = [part for group in reversed(groups) for part in _drawn(group)]
        return "\n\n".join([*parts, PUBLISHED])
    none = "**No record yet: nothing was measured on a GPU.** What the project wants of one:"
    goals = _table(["what", "goal"], ([goal.what, goal.goal] for goal in GOALS))
    return "\n\n".join([none, goals, PUBLISHED])


def _drawn(group: Group) -> Iterator[str]:
    """Yield heading, tables and failures of a group."""
    commit = f"commit {group.commit}" if group.commit else "commit unknown"
    yield f"#### {_plain(group.device)}, {_plain(commit)}"
    facts = group.find("ceilings", "versions")
    names = ("date", "python", "torch", "cuda", "transformers")
    if said := [f"{name} {_plain(facts[name])}" for name in names if facts.get(name)]:
        yield "; ".join(said) + "."
    yield _goals(group)
    for title, head, rows in (
        ("Ceilings", ["", "measured"], _ceilings(group)),
        ("Steps against peers, quartiles of the ratio", STEP_HEAD, _steps(group, "peers")),
        ("Rates of a QA step, real tokens only", RATE_HEAD, _rates(group)),
        (
            "Parts of an unrecorded QA step, base; and recorded ones",
            ["part", "time"],
            _parts(group),
        ),
        ("Kernels that take longest", ["step", "kernel", "calls", "together"], _kernels(group)),
        ("Recording", RECORDING_HEAD, _recordings(group)),
        ("Peak memory of QA steps", ["encoder", "ours", "padded", "ours/padded"], _memories(group)),
        (
            "The paper's nine runs",
            ["encoder", "corpus", "steps", "a step", "together"],
            _runs(group),
        ),
        ("Switches", STEP_HEAD, _steps(group, "switches")),
        ("Trial paths", STEP_HEAD, _steps(group, "trials")),
    ):
        if drawn := list(rows):
            yield f"{title}:"
            yield _table(head, drawn)
    if wrong := dict.fromkeys(_wrong(group)):
        yield "What went wrong or was left out:"
        yield "\n".join(f"- {text}" for text in wrong)


def _goals(group: Group) -> str:
    rows = []
    for goal in GOALS:
        found = goal.find(group)
        verdict = "–" if found is None else "yes" if found.reached else "**no**"
        rows.append([goal.what, goal.goal, found.words if found else "not measured", verdict])
    return _table(["what", "goal", "measured", "reached"], rows)


def _ceilings(group: Group) -> Iterator[list[str]]:
    for kind in ("bfloat16", "float32"):
        if line := group.find("ceilings", f"product_{kind}"):
            size = f"{line['size']:,}"
            yield [f"product of {size} × {size}, {kind}", f"{line['tflops']:,.1f} TFLOP/s"]
    if line := group.find("ceilings", "copy"):
        yield ["copy, bytes read and written", f"{line['gb_per_s']:,.0f} GB/s"]


STEP_HEAD = ["of", "case", "ours", "other", "other/ours"]


def _steps(group: Group, section: str) -> Iterator[list[str]]:
    """Yield the latest of each comparison, in the order of their first."""
    latest: dict[tuple[str, str], Line] = {}
    for line in group.of(section):
        if "ratio_spread" in line:
            latest[line.get("shape") or line.get("corpus") or "", line["case"]] = line
    for (of, case), line in latest.items():
        name = ", ".join(_peer(case)) if section == "peers" else case.replace("_", " ")
        if "attention" in line:
            name += f" ({line['attention']})"
        yield [_plain(of), _plain(name), _ms(line["ours_s"]), _ms(line["peer_s"]), _ratio(line)]


RATE_HEAD = [
    "encoder",
    "forward and backward",
    "whole step",
    "MFU of these",
    "tokens/s",
    "windows/s",
]


def _rates(group: Group) -> Iterator[list[str]]:
    for shape in ("base", "large"):
        if line := group.find("peers", "utilisation", shape=shape):
            both = f"{line['backward_utilisation']:.1%}, {line['step_utilisation']:.1%}"
            yield [
                shape,
                _ms(line["backward_s"]),
                _ms(line["step_s"]),
                both.replace("%", " %"),
                f"{line['tokens_per_s']:,.0f}",
                f"{line['windows_per_s']:,.1f}",
            ]


def _parts(group: Group) -> Iterator[list[str]]:
    line = group.find("time", "qa_step")
    for name, value in line.items():
        if name.endswith("_s"):
            part = "a recorded step" if name == "step_s" else name[:-2].replace("_", " ")
            yield [_plain(part), _ms(value)]
    kernels = (line for line in group.of("time") if line["case"].endswith("kernels"))
    for line in kernels:
        if not line.get("trial"):
            said = f"kernels of a recorded step, {line['corpus']}, {line['calls']:,.0f} calls"
            yield [_plain(said), _ms(line["kernels_s"])]


MOST_KERNELS = 10  # of a corpus


def _kernels(group: Group) -> Iterator[list[str]]:
    shown = Counter[tuple[str, str]]()
    for line in group.of("time"):
        if line["case"] != "kernel" or "corpus" not in line:
            continue
        kind = line["corpus"], line.get("trial", "")
        shown[kind] += 1
        if shown[kind] <= MOST_KERNELS:
            of = ", ".join(filter(None, kind))
            yield [_plain(of), _plain(line["name"]), f"{line['calls']:,.0f}", _ms(line["seconds"])]


RECORDING_HEAD = ["corpus", "a recording", "a replay", "memory", "steps", "recordings"]


def _recordings(group: Group) -> Iterator[list[str]]:
    for corpus in dict.fromkeys(line["case"] for line in group.of("recording")):
        line = group.find("recording", corpus)
        if "shape_s" in line:
            memory = f"{line['shape_mib']:,.0f} MiB"
            counts = [f"{line['steps']:,}", f"{line['recordings']:,}"]
            yield [_plain(corpus), _ms(line["shape_s"]), _ms(line["replay_s"]), memory, *counts]


def _memories(group: Group) -> Iterator[list[str]]:
    for shape in ("base", "large"):
        if line := group.find("peers", "memory", shape=shape):
            ours, peer = line["ours_mib"], line["peer_mib"]
            yield [shape, f"{ours:,.0f} MiB", f"{peer:,.0f} MiB", f"{ours / peer:.2f}"]


def _runs(group: Group) -> Iterator[list[str]]:
    for kind in group.find("paper", "nine_runs").get("kinds", []):
        steps, seconds = kind["steps"], kind["step_s"]
        together = f"{steps * seconds / 60:.1f} min"
        yield [kind["encoder"], kind["corpus"], f"{steps:,}", _ms(seconds), together]


def _wrong(group: Group) -> Iterator[str]:
    for line in group.lines:
        where = f"{line['section']}, {line['case'].replace('_', ' ')}"
        if line.get("right") is False:
            yield _plain(f"{where}: wrong")
        elif "failed" in line or line["case"] == "failed":
            yield _plain(f"{where}: {line.get('failed') or line.get('error')}")
        elif "left_out" in line or line["case"] == "left_out":
            yield _plain(f"{where}: no time left")


def _peer(case: str) -> tuple[str, str]:
    """Return step and peer of a case of the peers in words."""
    step, _, peer = case.partition("_step_")
    return {"qa": "QA", "sc": "CoLA"}.get(step, step), peer.replace("_", " ")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f} ms"


def _ratio(line: Line) -> str:
    low, high = line["ratio_spread"]
    return f"{line['ratio']:.2f} ({low:.2f}–{high:.2f})"


def _plain(text: object) -> str:
    """Return text of a record without what Markdown or a table would take for its own."""
    cleaned = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_|<>[]" else c for c in cleaned)


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


# --- the command -----------------------------------------------------------------------------


def replaced(notes: str, part: str) -> str:
    """Return the notes with another part between the two comments.

    Raises:
        Refused: the comments are not there, once each and in this order.
    """
    before, begin, rest = notes.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise Refused(f"NOTES.md: needs the comments {BEGIN} and {END}, once each, in this order")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def main() -> int:
    """Replace the part of NOTES.md."""
    try:
        text = replaced(NOTES.read_text(encoding="utf-8"), draw(read(RECORDS)))
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    draft = NOTES.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(NOTES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
