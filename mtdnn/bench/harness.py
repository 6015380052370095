"""`mtdnn bench`: time each part against a peer, in turns, so that both meet the same machine load.

Each benchmark is a module of this sub-package with a function `cases(options)` that yields what
`compare` returns. Peers are written as their own users run them, with their best settings. Times
are in seconds, memory is in MiB.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtdnn.errors import MtdnnError

if TYPE_CHECKING:
    import torch

Work = Callable[[], object]
"""A portion of what is timed: a step, a pass over a file."""


@dataclass(frozen=True)
class Options:
    """Options of every benchmark.

    Attributes:
        experiment: YAML file of an experiment; its corpora give real text and windows if they are
            available.
        encoder: `pretrained` (the experiment's first encoder), or a shape with random weights.
        folder: keeps encoders, corpora and features from one benchmark to the next.
        threads: CPU threads of both sides; torch's default if absent.
        rounds: number of turns of each side.
        precision: fp32 or bf16, of both sides; the experiment's if absent.
        only: measure only the cases whose names begin with this.
    """

    experiment: Path
    encoder: str
    folder: Path
    threads: int | None
    rounds: int
    precision: str | None = None
    only: str = ""


@dataclass(frozen=True)
class Timing:
    """How two sides are timed.

    Attributes:
        rounds: number of rounds that count.
        warm_up_rounds: number of rounds before them that do not count.
        wait: called before each reading of the clock; waits for the device if there is one.
        whole: whether a side does all portions of a round before the other's turn. A GPU computes
            one while the host prepares the next, as in training; waiting after each hides that.
    """

    rounds: int
    warm_up_rounds: int = 1
    wait: Work = lambda: None
    whole: bool = False

    @classmethod
    def on(cls, device: "torch.device", rounds: int, warm_up_rounds: int = 1) -> "Timing":
        """Return a timing that waits for `device`."""
        import torch

        if device.type != "cuda":
            return cls(rounds, warm_up_rounds)
        return cls(rounds, warm_up_rounds, torch.cuda.synchronize, whole=True)


class Feed:
    """Gives batches one by one, over and over, each assembled on another thread beforehand.

    Args:
        assemble: makes a batch of an item.
        items: what batches are made of.
        ahead: batches that are assembled beforehand; 0: each when it is asked for.
    """

    def __init__(self, assemble: Callable[[Any], Any], items: Sequence[Any], ahead: int):
        self._assemble, self._items = assemble, cycle(items)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting = deque(self._submit() for _ in range(ahead))

    def __call__(self) -> Any:
        """Return the next batch."""
        self._waiting.append(self._submit())
        return self._waiting.popleft().result()

    def _submit(self) -> "Future[Any]":
        return self._thread.submit(self._assemble, next(self._items))


def run(name: str, options: Options, as_json: bool) -> None:
    """Run the benchmark `name` and print its cases one by one, or all as one JSON object."""
    import torch

    from mtdnn.model.device import device_name, use_device

    device = use_device(options.threads)
    described = f"{device_name(device)}, {torch.get_num_threads()} CPU threads"
    cases = []
    if not as_json:
        print(described)
    for case in importlib.import_module(f"mtdnn.bench.{name}").cases(options):
        cases.append(case)
        print(describe(case), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print(json.dumps({"device": described, "cases": cases}, indent=2))


def compare(
    case: str,
    peer: str,
    ours: Sequence[Work],
    theirs: Sequence[Work],
    timing: Timing,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Time the same work done our way and the peer's way.

    Both sides are cut into the same number of portions. A round does all of them and the sides
    alternate, portion by portion unless `timing` says otherwise, so any other load on the machine
    affects both.

    Args:
        case: name of the case.
        peer: name of the peer.
        ours: our portions.
        theirs: the peer's portions.
        timing: number of rounds, and what to wait for.
        facts: further fields of the result, such as the windows that were measured.

    Returns:
        Median seconds of a portion of each side, and the median over rounds of the ratio
        peer / ours, with its quartiles as `ratio_spread`. `cpu_ratio` is the ratio of processor
        times, which varies less on a shared CPU because it excludes waiting for the processor.
    """

    def seconds(portions: Sequence[Work]) -> NDArray[np.float64]:
        timing.wait()
        start = time.perf_counter(), time.process_time()
        for work in portions:
            work()
        timing.wait()
        return np.subtract((time.perf_counter(), time.process_time()), start)

    pairs = zip(ours, theirs, strict=True)
    turns = [(ours, theirs)] if timing.whole else [([one], [other]) for one, other in pairs]
    totals = np.zeros((timing.warm_up_rounds + timing.rounds, 2, 2))  # round, side, clock
    for number, total in enumerate(totals):
        for turn in turns:
            sides = [*enumerate(turn)]
            for side, portions in sides if number % 2 else reversed(sides):
                total[side] += seconds(portions)
    totals = totals[timing.warm_up_rounds :] / len(ours)
    ratios = totals[:, 1] / totals[:, 0]
    return {
        "case": case,
        "peer": peer,
        "ours_s": float(np.median(totals[:, 0, 0])),
        "peer_s": float(np.median(totals[:, 1, 0])),
        "ratio": float(np.median(ratios[:, 0])),
        "ratio_spread": np.quantile(ratios[:, 0], [0.25, 0.75]).tolist(),
        "cpu_ratio": float(np.median(ratios[:, 1])),
        "rounds": timing.rounds,
        **facts,
    }


def compare_processes(
    case: str, peer: str, ours: list[str], theirs: list[str], rounds: int, folder: Path
) -> dict[str, Any]:
    """Time two commands in turns, each from the start of its process to its end."""
    turns = [[process(side, folder) for side in (ours, theirs)] for _ in range(rounds)]
    return of_processes(case, peer, turns)


def of_processes(
    case: str, peer: str, turns: Sequence[Sequence[tuple[float, float, float]]]
) -> dict[str, Any]:
    """Return what `compare` returns, and the peak memory of both sides.

    Args:
        case: name of the case.
        peer: name of the peer.
        turns: for each round, what `process` returned for our side and for the peer.
    """
    seconds, processor, memory = np.array(turns).transpose(2, 0, 1)
    ratios = seconds[:, 1] / seconds[:, 0]
    return {
        "case": case,
        "peer": peer,
        "ours_s": float(np.median(seconds[:, 0])),
        "peer_s": float(np.median(seconds[:, 1])),
        "ours_cpu_s": float(np.median(processor[:, 0])),
        "peer_cpu_s": float(np.median(processor[:, 1])),
        "ratio": float(np.median(ratios)),
        "ratio_spread": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "cpu_ratio": float(np.median(processor[:, 1] / processor[:, 0])),
        "memory_mib": float(memory[:, 0].max()),
        "peer_memory_mib": float(memory[:, 1].max()),
        "rounds": len(ratios),
    }


def process(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Run a command and measure it, without the processes that it starts.

    Returns:
        Seconds by the clock, processor seconds and peak memory in MiB.

    Raises:
        MtdnnError: the command fails.
    """
    began, memory = time.perf_counter(), 0.0
    with (folder / "log").open("w+") as log:
        started = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        # Read its peak while it runs: what the kernel reports afterwards includes our own peak.
        while not os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            memory = max(memory, peak_memory_mib(started.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        # It has ended but was not waited for, so it is still listed. Its name may contain spaces.
        fields = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()
        processor = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        log.seek(0)
        if started.wait():
            raise MtdnnError(f"bench: {' '.join(command)}: {log.read()[-500:].strip()}")
    return seconds, processor, memory


def peak_memory_mib(process_id: int | str = "self") -> float:
    """Return the peak resident memory of a process in MiB; 0 if it has ended."""
    lines = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def describe(case: dict[str, Any]) -> str:
    """Describe a case in one line, the ratio first."""
    start = f"{case['case']} vs {case['peer']}: {case['ratio']:.2f}"
    if "ours_s" not in case:
        memory = f"{case['memory_mib']:,.0f} against {case['peer_memory_mib']:,.0f} MiB"
        return f"{start}, {memory}"
    low, high = case["ratio_spread"]
    clock = f", {case['cpu_ratio']:.2f} by processor time" if "cpu_ratio" in case else ""
    facts = {k: v for k, v in case.items() if isinstance(v, str) and k not in ("case", "peer")}
    return (
        f"{start} ({low:.2f} to {high:.2f}), "
        f"{1000 * case['ours_s']:,.1f} against {1000 * case['peer_s']:,.1f} ms{clock}; "
        + ", ".join(f"{name} {value}" for name, value in facts.items())
    )
