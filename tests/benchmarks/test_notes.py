"""What is drawn from the records of GPUs: every goal, and nothing of a rehearsal."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import notes

ROOT = Path(__file__).parents[2]


def line(section, case, **values):
    about = {"device": "NVIDIA X100", "commit": "abc123", "rehearsal": False}
    return {"section": section, "case": case, **about, **values}


def against(case, ratio, ours_s=0.002, **values):
    low, high = ratio - 0.1, ratio + 0.1
    times = {"ours_s": ours_s, "peer_s": ours_s * ratio, "ratio": ratio}
    return line("peers", case, shape="base", **times, ratio_spread=[low, high], **values)


RECORD = [
    line("ceilings", "versions", date="2031-02-03", torch="9.8", cuda="7.6", transformers="5.4"),
    line("ceilings", "product_bfloat16", size=8192, tflops=650.04),
    line("attention", "heads_of_64_output", right=True, error=1e-3),
    line("attention", "heads_of_64_no_leak", right=True),
    line("attention", "done", seconds=3.0),
    against("qa_step_trainer_padded", 4.0, 0.0071),
    against("qa_step_trainer_dynamic_grouped", 1.7),
    against("qa_step_trainer_padded_compiled", 2.0),
    against("qa_step_trainer_dynamic_grouped_compiled", 1.35),
    against("sc_step_trainer_dynamic", 1.9, 0.0034),
    line(
        "peers",
        "utilisation",
        shape="base",
        backward_s=0.005,
        step_s=0.006,
        backward_utilisation=0.36,
        step_utilisation=0.29,
        tokens_per_s=458_333.3,
        windows_per_s=2_666.7,
    ),
    line("peers", "memory", shape="base", ours_mib=3000.0, peer_mib=6000.0),
    line("recording", "squad", shape_s=0.05, replay_s=0.006, shape_mib=9.0, steps=9, recordings=2),
    line("recording", "whole_run", share=0.021),
    line(
        "paper",
        "nine_runs",
        seconds=1500.0,
        kinds=[{"encoder": "base", "corpus": "squad", "steps": 114_058, "step_s": 0.006}],
    ),
]


HEAD = "| of | case | ours | other | other/ours |\n| --- | --- | --- | --- | --- |\n"


def write(folder, lines, name="x.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


def drawn(folder, lines):
    return notes.draw(notes.read(write(folder, lines)))


def cells(text):
    """Return the tables' rows by their first cells."""
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    return {row[0]: row[1:] for row in reversed(rows)}


def test_the_committed_notes_are_drawn_from_the_committed_records():
    text = notes.NOTES.read_text(encoding="utf-8")
    assert notes.replaced(text, notes.draw(notes.read(notes.RECORDS))) == text


def test_the_guide_says_that_no_gpu_was_measured_as_long_as_there_is_no_record():
    guide = (ROOT / "docs" / "guides" / "gpu.md").read_text(encoding="utf-8")
    assert ("No GPU has been measured yet" in guide) == (not notes.read(notes.RECORDS))


def test_without_a_record_the_notes_say_so(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        text = notes.draw(notes.read(folder))
        assert "No record yet" in text
        assert all(goal.what in text and goal.goal in text for goal in notes.GOALS)


def test_a_record_is_drawn_beside_the_goals(tmp_path):
    text = drawn(tmp_path, RECORD)
    assert "#### NVIDIA X100, commit abc123" in text and "torch 9.8" in text
    found = cells(text)
    assert found["`attention`: parity, no leak, bits, dropout"] == ["all hold", "2 of 2", "yes"]
    assert found["`commands`: `mtdnn train`, stopped and resumed"][1:] == ["not measured", "–"]
    assert found["QA step, base: `Trainer`, padded"][1:] == ["4.00 (3.90–4.10)", "yes"]
    assert found["… `Trainer`, dynamic and grouped"][1:] == ["1.70 (1.60–1.80)", "**no**"]
    best = "1.35 (1.25–1.45), trainer dynamic grouped compiled"
    assert found["… its compiled best"][1:] == [best, "yes"]
    assert found["MFU of forward and backward, base"][1:] == ["36.0 %", "yes"]
    assert found["… large"][1:] == ["not measured", "–"]
    assert found["… whole step, base"][1:] == ["29.0 %", "**no**"]
    assert found["CoLA step, base"][1:] == ["3.40 ms", "yes"]
    assert found["recording, share of a whole run's time"][1:] == ["2.1 %", "yes"]
    assert found["the paper's nine runs, one seed"][1:] == ["25.0 min", "yes"]
    assert found["peak memory of a QA step, base: ours / padded"][1:] == ["0.50", "yes"]
    assert found["product of 8,192 × 8,192, bfloat16"] == ["650.0 TFLOP/s"]
    rates = ["5.00 ms", "6.00 ms", "36.0 %, 29.0 %", "458,333", "2,666.7"]
    assert rates in [row.strip("| ").split(" | ")[1:] for row in text.splitlines()]
    assert "| base | squad | 114,058 | 6.00 ms | 11.4 min |" in text
    assert "| base | QA, trainer padded | 7.10 ms | 28.40 ms | 4.00 (3.90–4.10) |" in text
    assert "No record" not in text and "went wrong" not in text


def test_switches_and_trial_paths_are_drawn_by_corpus(tmp_path):
    times = {"ours_s": 0.002, "peer_s": 0.003, "ratio": 1.5, "ratio_spread": [1.4, 1.6]}
    text = drawn(
        tmp_path,
        [
            line("switches", "without_graphs", corpus="cola", **times),
            line("trials", "casts", corpus="squad", **times),
        ],
    )
    figures = "2.00 ms | 3.00 ms | 1.50 (1.40–1.60) |"
    assert f"Switches:\n\n{HEAD}| cola | without graphs | {figures}" in text
    assert f"Trial paths:\n\n{HEAD}| squad | casts | {figures}" in text


def test_a_figure_of_the_same_commit_is_replaced_and_one_of_another_is_not(tmp_path):
    later = against("qa_step_trainer_padded", 2.5)
    text = drawn(tmp_path, [*RECORD, later])
    assert cells(text)["QA step, base: `Trainer`, padded"][1:] == ["2.50 (2.40–2.60)", "**no**"]
    text = drawn(tmp_path, [*RECORD, {**later, "commit": None}])
    assert "#### NVIDIA X100, commit abc123" in text and "#### NVIDIA X100, commit unknown" in text
    assert "4.00 (3.90–4.10) | yes" in text and "2.50 (2.40–2.60) | **no**" in text


def test_a_check_that_was_wrong_once_stays_wrong(tmp_path):
    wrong = line("attention", "heads_of_64_no_leak", right=False)
    text = drawn(tmp_path, [wrong, *RECORD])
    assert cells(text)["`attention`: parity, no leak, bits, dropout"][1:] == ["2 of 3", "**no**"]
    assert "attention, heads of 64 no leak: wrong" in text


def test_what_failed_or_was_left_out_is_named_and_reaches_no_goal(tmp_path):
    lines = [
        line("steps", "recordings", right=True),
        line("steps", "failed", error="RuntimeError: no"),
        line("peers", "qa_step_trainer_padded", shape="base", failed="OutOfMemoryError: much"),
        line("peers", "qa_step_unpadded", shape="base", left_out=True, left_s=3.0),
        line("commands", "left_out", left_s=3.0, needed_s=60),
    ]
    text = drawn(tmp_path, lines)
    found = cells(text)
    assert found["`steps`: recorded and resumed, equal in every bit"][1:] == [
        "1 of 1, not to its end",
        "**no**",
    ]
    assert found["QA step, base: `Trainer`, padded"][1:] == ["not measured", "–"]
    assert found["`commands`: `mtdnn train`, stopped and resumed"][1:] == ["not measured", "–"]
    for said in ("RuntimeError: no", "OutOfMemoryError: much", "commands, left out: no time left"):
        assert said in text


def test_a_record_of_a_rehearsal_or_without_origin_is_refused_by_file_and_line(tmp_path):
    for last in (
        json.dumps({**line("ceilings", "copy"), "rehearsal": True}),
        json.dumps({**line("ceilings", "copy"), "rehearsal": None}),
        '{"section": "ceilings", "case": "copy", "rehearsal": false}',
        '["ceilings"]',
        '{"section": "cei',
    ):
        folder = write(tmp_path / "records", RECORD[:1])
        with (folder / "x.jsonl").open("a") as file:
            file.write(last)
        with pytest.raises(notes.Refused, match=r"^records/x\.jsonl: line 2: .*; remove the "):
            notes.read(folder)


@given(st.text())
def test_text_of_a_record_stays_in_its_place(text):
    text = f"{text} | {notes.END}\n{notes.BEGIN}\n# {text}"
    group = notes.Group(text, text, [line("steps", "failed", error=text)])
    page = notes.replaced(f"a\n{notes.BEGIN}\nold\n{notes.END}\nb\n", notes.draw([group]))
    assert notes.replaced(page, "new") == f"a\n{notes.BEGIN}\n\nnew\n\n{notes.END}\nb\n"
    assert not re.search(r"^# ", page, re.MULTILINE)


def test_the_notes_need_both_comments():
    for text in ("", notes.BEGIN, f"{notes.END}{notes.BEGIN}", notes.BEGIN + 2 * notes.END):
        with pytest.raises(notes.Refused, match=r"^NOTES\.md: "):
            notes.replaced(text, "new")


@pytest.mark.slow
def test_a_rehearsal_finds_the_figures_and_is_refused(tmp_path):
    """Its figures are drawn only when this test says that a GPU gave them."""
    sections = ["ceilings", "attention", "steps", "recording", "peers", "paper"]
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "gpu.py"), str(tmp_path / "out")]
    command += ["--rehearse", "--seconds", "1500", "--commit", "abc123", "--only", *sections]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MTDNN_DATA": str(tmp_path / "nowhere")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (file,) = (tmp_path / "out").iterdir()
    assert file.name.endswith("-rehearsal.jsonl")
    assert str(tmp_path) not in file.read_text() and str(ROOT) not in file.read_text()
    with pytest.raises(notes.Refused, match="of a rehearsal"):
        notes.read(file.parent)
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert all(each.pop("rehearsal") is True for each in lines)
    measured = [{**each, "rehearsal": False} for each in lines]
    (group,) = notes.read(write(tmp_path / "measured", measured))
    assert group.commit == "abc123"
    others = ("`failure`", "`commands`", "… large", "… its compiled")
    for goal in notes.GOALS:
        assert (goal.find(group) is None) == goal.what.startswith(others), goal.what
    text = notes.draw([group])
    assert "went wrong" not in text
    assert all(cells(text)[goal.what][2] == "yes" for goal in notes.GOALS[:2])
    found, by_case = cells(text), {(each["section"], each["case"]): each for each in lines}
    share = by_case["recording", "whole_run"]["share"]
    assert found["recording, share of a whole run's time"][1] == f"{100 * share:.1f} %"
    minutes = by_case["paper", "nine_runs"]["seconds"] / 60
    assert found["the paper's nine runs, one seed"][1] == f"{minutes:.1f} min"
    step = by_case["peers", "utilisation"]
    work = step["tflop"] / step["step_s"] / step["product_tflops"]
    assert found["… whole step, base"][1] == f"{100 * work:.1f} %"
