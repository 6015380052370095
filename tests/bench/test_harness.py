"""The harness: sides take turns, processes are measured, cases are described in one line."""

import sys
import threading

import pytest

from mtdnn.bench.harness import Feed, Timing, compare, describe, of_processes, process
from mtdnn.errors import MtdnnError


def test_sides_take_turns_and_warm_up_rounds_do_not_count(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr("mtdnn.bench.harness.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("mtdnn.bench.harness.time.process_time", lambda: clock[0] / 2)

    def side(name, seconds):
        def work():
            calls.append(name)
            # The first call of each is slow, as a warm-up would be.
            clock[0] += seconds if calls.count(name) > 1 else 100

        return work

    case = compare(
        "case", "peer", [side("a", 1)], [side("b", 3)], Timing(rounds=3), {"windows": "none"}
    )
    assert calls == ["b", "a", "a", "b"] * 2
    assert (case["ours_s"], case["peer_s"], case["ratio"], case["cpu_ratio"]) == (1, 3, 3, 3)
    assert case["ratio_spread"] == [3, 3]
    assert (case["case"], case["peer"], case["rounds"]) == ("case", "peer", 3)
    assert case["windows"] == "none"


@pytest.mark.parametrize(
    ("whole", "expected"), [(False, "| b | | a | " * 2), (True, "| b b | | a a | ")]
)
def test_a_device_is_waited_for_before_the_other_side_has_its_turn(whole, expected):
    said = []
    ours, theirs = ([lambda name=name: said.append(name)] * 2 for name in "ab")
    timing = Timing(1, 0, lambda: said.append("|"), whole)
    compare("case", "peer", ours, theirs, timing, {})
    assert " ".join(said) == expected.strip()


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_feed_assembles_batches_ahead_and_in_turn(ahead):
    made, ready = [], threading.Event()

    def assemble(item):
        made.append(item)
        if len(made) == ahead:
            ready.set()
        return 2 * item

    feed = Feed(assemble, [1, 2, 3], ahead)
    assert ahead == 0 or ready.wait(10)
    assert made == [1, 2][:ahead]
    assert [feed() for _ in range(7)] == [2, 4, 6, 2, 4, 6, 2]


def test_a_process_is_measured_by_time_and_peak_memory(tmp_path):
    code = "held = bytearray(64 * 2**20); held[::4096] = held[::4096]; sum(range(10**6))"
    _, _, bare = process([sys.executable, "-c", "import time; time.sleep(0.1)"], tmp_path)
    seconds, processor, memory = process(
        [sys.executable, "-c", f"{code}; import time; time.sleep(0.1)"], tmp_path
    )
    assert seconds >= 0.1 and processor > 0
    assert memory - bare == pytest.approx(64, abs=6)


def test_a_process_that_fails_is_an_error_with_its_output(tmp_path):
    with pytest.raises(MtdnnError, match=r"^bench: .*no luck$"):
        process([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path)


def test_processes_are_compared_round_by_round():
    turns = [[(1.0, 0.5, 100.0), (2.0, 2.0, 50.0)], [(2.0, 1.0, 120.0), (8.0, 2.0, 40.0)]]
    case = of_processes("case", "peer", turns)
    assert (case["ours_s"], case["peer_s"], case["ratio"]) == (1.5, 5.0, 3.0)
    assert (case["ours_cpu_s"], case["peer_cpu_s"], case["cpu_ratio"]) == (0.75, 2.0, 3.0)
    assert (case["memory_mib"], case["peer_memory_mib"], case["rounds"]) == (120.0, 50.0, 2)


def test_a_case_is_described_in_one_line():
    case = {"case": "qa", "peer": "padded", "ratio": 2.0}
    timed = {**case, "ours_s": 0.5, "peer_s": 1.0, "ratio_spread": [1.5, 2.5], "windows": "real"}
    assert describe(timed) == (
        "qa vs padded: 2.00 (1.50 to 2.50), 500.0 against 1,000.0 ms; windows real"
    )
    memory = {**case, "memory_mib": 1000.4, "peer_memory_mib": 2000.8}
    assert describe(memory) == "qa vs padded: 2.00, 1,000 against 2,001 MiB"
