"""Fuzz every target: `python -m tests.fuzz --cases 100000`.

Hypothesis draws the cases and shrinks those that fail. With `--engine atheris` (the package
`atheris` from PyPI) one target is fuzzed by coverage: `--target "SQuAD, spoiled JSON"`.
"""

import argparse
import contextlib
import io
import shutil
import sys
import time
from collections import Counter
from contextlib import nullcontext
from types import ModuleType

from hypothesis import HealthCheck, Phase, given, settings


def case_of(targets: ModuleType, name: str, counts: Counter[str]):
    """Return a Hypothesis test of the target that counts its cases."""
    target, inputs, _ = targets.TARGETS[name]

    @given(inputs)
    def test(value):
        counts["cases"] += 1
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            counts["accepted"] += targets.judge(target, value)

    return test


def with_hypothesis(targets: ModuleType, names: list[str], cases: int) -> int:
    """Fuzz the named targets, each with its share of `cases`; return the exit status."""
    total = findings = 0
    share = sum(targets.TARGETS[name][2] for name in names)
    print("| target | cases | accepted | seconds |\n|---|---|---|---|", flush=True)
    for name in names:
        counts: Counter[str] = Counter()
        began = time.monotonic()
        wanted = max(1, round(cases * targets.TARGETS[name][2] / share + 0.5))
        test = settings(
            max_examples=wanted,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(case_of(targets, name, counts))
        # Hypothesis stops early when it believes that no case is left.
        try:
            while counts["cases"] < wanted:
                test()
        except Exception as error:
            findings += 1
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
            for note in getattr(error, "__notes__", []):
                print(note[:2000], file=sys.stderr)
        total += counts["cases"]
        seconds = time.monotonic() - began
        print(f"| {name} | {counts['cases']} | {counts['accepted']} | {seconds:.0f} |", flush=True)
    print(f"{total} cases, {findings} findings", flush=True)
    return 1 if findings else 0


def with_atheris(targets: ModuleType, name: str, cases: int) -> None:
    """Fuzz one target by coverage; libFuzzer ends the process, with its own exit status."""
    import atheris

    counts: Counter[str] = Counter()
    test = settings(database=None, suppress_health_check=list(HealthCheck))(
        case_of(targets, name, counts)
    )
    atheris.Setup(
        [sys.argv[0], f"-runs={cases}", "-max_len=4096", "-len_control=0"],
        test.hypothesis.fuzz_one_input,
    )
    atheris.Fuzz()


def _instrumented() -> contextlib.AbstractContextManager[None]:
    """Return a context in which imported modules report their branches to the fuzzer."""
    import atheris

    return atheris.instrument_imports(include=["mtdnn"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--target", help="fuzz only this target")
    arguments = parser.parse_args()
    by_coverage = arguments.engine == "atheris"
    with _instrumented() if by_coverage else nullcontext():
        from tests.fuzz import targets
    if arguments.target not in (None, *targets.TARGETS):
        parser.error(f"--target: one of {', '.join(targets.TARGETS)}")
    names = [arguments.target] if arguments.target else list(targets.TARGETS)
    try:
        if by_coverage:
            with_atheris(targets, names[0], arguments.cases)
        return with_hypothesis(targets, names, arguments.cases)
    finally:
        shutil.rmtree(targets.folder(), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
