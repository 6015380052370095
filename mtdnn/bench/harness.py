"""`mtdnn bench`: each part against a peer, in the same machine state, alternating.

Every benchmark is a module here with a function `cases(options)` that yields what `compare`
returns. Peers are written as their own users run them, with their best settings.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn.errors import MtdnnError


@dataclass(frozen=True)
class Options:
    """What every benchmark is told.

    Attributes:
        experiment: its corpora give the real text and windows, where they can be had.
        encoder: `pretrained` (the experiment's first encoder), or a shape with random weights.
        folder: where encoders, corpora and features are kept from one benchmark to the next.
        threads: CPU threads of ours and of the peer alike; torch's own choice when absent.
        rounds: how often ours and the peer take turns.
        precision: fp32 or bf16, of ours and of the peer; the experiment's when absent.
        only: measure just the cases whose names begin with this.
    """

    experiment: Path
    encoder: str
    folder: Path
    threads: int | None
    rounds: int
    precision: str | None = None
    only: str = ""


def run(name: str, options: Options, as_json: bool) -> None:
    """Run the benchmark `name` and print its cases, as they come or as one JSON object."""
    import torch

    from mtdnn.model.device import device_name, use_device

    device = use_device(options.threads)
    described = f"{device_name(device)}, {torch.get_num_threads()} CPU threads"
    cases = []
    if not as_json:
        print(described)
    for case in importlib.import_module(f"mtdnn.bench.{name}").cases(options):
        cases.append(case)
        print(_line(case), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        print(json.dumps({"device": described, "cases": cases}, indent=2))


def compare(
    case: str,
    peer: str,
    ours: Sequence[Callable[[], Any]],
    theirs: Sequence[Callable[[], Any]],
    rounds: int,
    wait: Callable[[], Any] = lambda: None,
    warm_up: int = 1,
    **facts: Any,
) -> dict[str, Any]:
    """Time the same work done in our way and in the peer's.

    Both are cut into as many portions (a step, a pass over a file). A round does all of
    them, portion by portion in turn, so that whatever else the machine does meets both.

    Args:
        wait: called before a clock is read; waits for the device where there is one.
        warm_up: rounds that come first and are not counted.
        facts: what else belongs to the case, for instance on which windows it was measured.

    Returns:
        Median seconds of a portion, and the median over the rounds of peer/ours, with the
        quartiles of that ratio as `ratio_spread`. `cpu_ratio` is the same of processor time:
        the steadier figure on a CPU that others use too, as waiting for it does not count.
    """

    def seconds(work: Callable[[], Any]) -> np.ndarray:
        wait()
        start = np.array([time.perf_counter(), time.process_time()])
        work()
        wait()
        return np.array([time.perf_counter(), time.process_time()]) - start

    totals = np.zeros((warm_up + rounds, 2, 2))  # round, side (ours, theirs), clock
    for number, total in enumerate(totals):
        for one, other in zip(ours, theirs, strict=True):
            sides = [(0, one), (1, other)]
            for side, work in sides if number % 2 else reversed(sides):
                total[side] += seconds(work)
    totals = totals[warm_up:] / len(ours)
    ratios = totals[:, 1] / totals[:, 0]
    return {
        "case": case,
        "peer": peer,
        "ours_s": float(np.median(totals[:, 0, 0])),
        "peer_s": float(np.median(totals[:, 1, 0])),
        "ratio": float(np.median(ratios[:, 0])),
        "ratio_spread": np.quantile(ratios[:, 0], [0.25, 0.75]).tolist(),
        "cpu_ratio": float(np.median(ratios[:, 1])),
        "rounds": rounds,
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
    """What `compare` returns, with the memory of both sides.

    Args:
        turns: for each round what `process` says of ours, and of the peer.
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
        "memory_mb": float(memory[:, 0].max()),
        "peer_memory_mb": float(memory[:, 1].max()),
        "rounds": len(ratios),
    }


def process(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak megabytes of a command itself, without what it starts.

    Raises:
        MtdnnError: it fails.
    """
    began, memory = time.perf_counter(), 0.0
    with (folder / "log").open("w+") as log:
        started = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        # Its own peak is known while it lives; what the kernel tells later begins with ours.
        while not os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            memory = max(memory, _peak_mb(started.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        # It has ended and was not waited for; its name may hold blanks.
        fields = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()
        processor = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        log.seek(0)
        if started.wait():
            raise MtdnnError(f"bench: {' '.join(command)}: {log.read()[-500:].strip()}")
    return seconds, processor, memory


def _peak_mb(number: int) -> float:
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return sum(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def _line(case: dict[str, Any]) -> str:
    """A case for people, the ratio first."""
    if "ours_bytes" in case:
        mine, its = (case[side] / 2**20 for side in ("ours_bytes", "peer_bytes"))
        figures = f"{case['ratio']:.2f}, {mine:,.0f} against {its:,.0f} MiB"
        return f"{case['case']} vs {case['peer']}: {figures}"
    low, high = case["ratio_spread"]
    clock = f", {case['cpu_ratio']:.2f} by processor time" if "cpu_ratio" in case else ""
    facts = ", ".join(f"{k} {v}" for k, v in case.items() if isinstance(v, str))
    return (
        f"{case['case']} vs {case['peer']}: {case['ratio']:.2f} ({low:.2f} to {high:.2f}), "
        f"{1000 * case['ours_s']:,.1f} against {1000 * case['peer_s']:,.1f} ms{clock}; {facts}"
    )
