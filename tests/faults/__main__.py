"""Run random sequences of commands and faults: `python -m tests.faults --sequences 200`.

A sequence that fails is printed as commands; `--seed N` repeats one.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.experiment import prepare
from tests.faults.judge import Finding, run
from tests.faults.process import Machine, small_disk
from tests.faults.sequences import draw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    parser.add_argument("--seed", type=int, action="append", help="only this one; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="also print what succeeds")
    arguments = parser.parse_args()
    seeds = arguments.seed or range(arguments.first, arguments.first + arguments.sequences)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder, "disk")) as can_fill:
        if not can_fill:
            print("no disk is filled: mounting a small one needs root", flush=True)
        machine = Machine(Path(folder, "disk"), can_fill)
        reference = prepare(machine, Path(folder, "kept"))
        for seed in seeds:
            began, account = time.monotonic(), []
            try:
                actions = draw(seed, can_fill)
                struck = run(machine, Path(folder, "kept"), reference, actions, account.append)
            except Finding as error:
                counts["findings"] += 1
                print("\n".join([f"=== seed {seed}", *account, f"FINDING: {error}"]), flush=True)
            else:
                seconds = time.monotonic() - began
                print(
                    f"seed {seed}: {len(actions)} actions, {struck} faults, {seconds:.0f} s",
                    flush=True,
                )
                counts.update(actions=len(actions), faults=struck)
                if arguments.verbose:
                    print("\n".join(account), flush=True)
            counts["sequences"] += 1
    print(f"{counts['sequences']} sequences, {counts['findings']} findings", flush=True)
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
