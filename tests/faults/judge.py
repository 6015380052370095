"""What must hold after every command, and at the end of a sequence."""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from mtdnn.config.layout import RunFolder
from mtdnn.machine.files import sha256
from tests.faults.experiment import (
    CALM,
    PARTS,
    ROOT,
    RUNS,
    SOURCES,
    Reference,
    contents,
    files_of,
    finishing,
    sources,
    tables,
)
from tests.faults.process import Command, Machine, Outcome, shown
from tests.faults.sequences import Action, Damage

ROUNDS = 6
"""How often the last commands may ask for something to be done first."""
WRITERS = {
    "trained": ("snakemake", "train", "run", "import", "schedule"),
    "evaluated": ("snakemake", "evaluate", "train", "run", "import", "schedule"),
    "scored": ("snakemake", "metrics", "evaluate", "train", "run", "import", "schedule"),
}
"""The commands that may replace each part of a run."""


class Finding(AssertionError):
    """Something that must not happen happened."""


class Sequence:
    """One sequence in progress: what was there before each action, and what may have changed.

    Args:
        machine: runs the commands; its folder is replaced.
        kept: the prepared experiment.
        reference: what is in the finished one.
        say: takes each line of the account.
    """

    def __init__(
        self, machine: Machine, kept: Path, reference: Reference, say: Callable[[str], None]
    ):
        self._machine, self._reference, self._say = machine, reference, say
        self.here = machine.folder
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(kept, self.here)
        self.struck = 0
        self._damaged: dict[Path, str] = {}
        self._before = {run: self._parts(run) for run in RUNS}
        self._since: dict[str, list[Outcome]] = {run: [] for run in RUNS}
        self._configs: dict[str, set[str]] = {run: {CALM} for run in RUNS}

    # --- the actions

    def do(self, action: Action) -> None:
        """Do one action of the sequence and look at what it left behind."""
        if isinstance(action, Damage):
            self._damage(action)
            return
        for run in RUNS:
            self._configs[run] |= self._config(run)
        self._say(f"$ {shown(action.command)}" + (f"  # {action.fault}" if action.fault else ""))
        if action.beside:
            self._say(f"$ {shown(action.beside)}  # beside it")
        outcomes = self._machine.run(action.command, action.fault, action.beside)
        signals = ("SIGKILL", "SIGTERM", "SIGINT")
        for number, outcome in enumerate(outcomes):
            is_signalled = bool(number == 0 and action.fault and action.fault.kind in signals)
            self._say(outcome.output + f"(status {outcome.status})" + " struck" * outcome.is_struck)
            _check_ending(outcome, is_signalled)
        for run in RUNS:
            self._since[run] += outcomes
            self._configs[run] |= self._config(run)
            self._check_run(run)
        self._check_sources(outcomes)
        self.struck += outcomes[0].is_struck

    def _damage(self, action: Damage) -> None:
        found = self._candidates(action.pattern)
        if not found:
            return
        path = found[action.choice % len(found)]
        data = path.read_bytes()
        middle = len(data) // 2
        if action.way == "rm":
            path.unlink()
        elif action.way == "halve":
            path.write_bytes(data[:middle])
        else:
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        self._say(f"{action.way} {path.relative_to(self.here)}")
        self._damaged[path] = self._state(path)

    def _candidates(self, pattern: str) -> list[Path]:
        root = self.here / ROOT
        return [
            path
            for path in sorted(root.glob(pattern))
            if path.is_file()
            and path.name not in _UNRECORDED
            and not self._is_damaged(path)  # the same change again would mend it
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
        ]

    # --- after each action

    def _state(self, path: Path) -> str:
        return sha256(path) if path.is_file() else "missing"

    def _is_damaged(self, path: Path) -> bool:
        """Whether a file is still as damage left it."""
        return path in self._damaged and self._state(path) == self._damaged[path]

    def _mended(self, folder: Path) -> set[Path]:
        """The files of a run that were damaged and have been replaced since."""
        return {p for p in self._damaged if folder in p.parents and not self._is_damaged(p)}

    def _config(self, run: str) -> set[str]:
        """The versions of the settings with which a step of the run works now."""
        path = RunFolder(self.here / ROOT / "runs" / run).config
        found = path.read_bytes() if path.exists() else b""
        return {v for (v, r), c in self._reference.configs.items() if r == run and c == found}

    def _parts(self, run: str) -> dict[str, dict[str, str]]:
        """The content of each part of a run, without damaged files."""
        folder = self.here / ROOT / "runs" / run
        return {part: contents(folder, part) for part in PARTS}

    def _check_run(self, run: str) -> None:
        """Check that a run's finished parts are kept, or replaced by what was asked for."""
        folder = self.here / ROOT / "runs" / run
        if (folder / ".ready").is_dir():
            return  # a killed process left the rest to the next one
        before, after = self._before[run], self._parts(run)
        outcomes, wanted = self._since[run], self._wanted(run)
        for part in PARTS:
            damaged = {p.relative_to(folder) for p in files_of(folder, part) if self._is_damaged(p)}
            damaged |= {p.relative_to(folder) for p in self._damaged if folder in p.parents}
            names = {*before[part], *after[part]} - {str(each) for each in damaged}
            changed = {n for n in names if before[part].get(n) != after[part].get(n)}
            if not changed:
                continue
            account = f"{run}: {part}: changed: {', '.join(sorted(changed))}"
            commands = [o.command for o in outcomes]
            if not any(c[0] in WRITERS[part] for c in commands):
                raise Finding(f"{account}, though no command does that")
            is_whole = self._is_whole(run, part, wanted, after, damaged)
            if not is_whole and not self._may_vanish(run, part, outcomes, before, after, wanted):
                raise Finding(f"{account}: neither what it was nor what was asked for")
        for path in self._mended(folder):
            del self._damaged[path]
        self._before[run], self._since[run] = after, []
        self._configs[run] = self._config(run)

    def _wanted(self, run: str) -> set[str]:
        """The versions in which recent commands were asked to make the run."""
        named = {
            part
            for outcome in self._since[run]
            for part in outcome.command
            if part.endswith(".yaml")
            and outcome.command[0] in ("run", "import", "metrics", "snakemake")
        }
        return named | self._configs[run]

    def _is_whole(
        self,
        run: str,
        part: str,
        wanted: set[str],
        after: dict[str, dict[str, str]],
        damaged: set[Path],
    ) -> bool:
        for version in wanted:
            expected = self._reference.parts[version, run, part]
            names = {*expected, *after[part]} - {str(each) for each in damaged}
            if all(expected.get(n) == after[part].get(n) for n in names):
                return True
        return False

    def _may_vanish(
        self,
        run: str,
        part: str,
        outcomes: list[Outcome],
        before: dict[str, dict[str, str]],
        after: dict[str, dict[str, str]],
        wanted: set[str],
    ) -> bool:
        """Whether a part may be gone because what it followed from was replaced on purpose."""
        if any(o.command[0] == "snakemake" for o in outcomes):
            return True  # it deletes the outputs of a step before it starts the step
        repeated = [o.command[0] for o in outcomes if "--force" in o.command]
        forced = "schedule" in repeated
        if part == "trained":
            only = {"schedule.parquet"}
            own = set(after[part]) <= only or not before[part].keys() - only
            return own and (forced or not before[part].get("model/run.json"))
        if after[part]:
            return False
        if part == "scored" and ("evaluate" in repeated or len(wanted) > 1):
            return True
        earlier = PARTS[: PARTS.index(part)]
        if any(before[each] != after[each] for each in earlier) or not before[part]:
            return True
        folder = self.here / ROOT / "runs" / run
        remade = {path for each in earlier for path in files_of(folder, each)}
        return bool(remade & self._mended(folder))

    def _check_sources(self, outcomes: list[Outcome]) -> None:
        """Check that encoder, corpora and features are what they were, or damaged by us."""
        root, found = self.here / ROOT, sources(self.here)
        for name, expected in self._reference.sources.items():
            path = root / name
            if found.get(name) != expected and path not in self._damaged:
                what = "is gone" if name not in found else "has changed"
                raise Finding(f"{path.relative_to(self.here)}: {what}")

    # --- at the end

    def finish(self) -> None:
        """Finish the experiment undisturbed, doing what messages ask for, and compare it."""
        self._say("at the end:")
        for _ in range(ROUNDS):
            outcome = self._first_failure(finishing(CALM))
            if outcome is None:
                break
            self._follow(outcome)
        else:
            raise Finding("what the messages asked for did not help")
        (verified,) = self._machine.run(("verify", str(ROOT)))
        _check_ending(verified, False)
        found, expected = tables(self.here), self._reference.tables
        named = "\n".join(verified.errors)
        differing = [name for name in expected if found.get(name) != expected[name]]
        if differing and not verified.errors:
            raise Finding(f"differs from the undisturbed: {', '.join(differing)}")
        for path in self._damaged:
            name = str(path.relative_to(self.here))
            if self._is_damaged(path) and "state/" not in name and name not in named:
                raise Finding(f"{name}: is damaged, and nothing says so")
        if not any(map(self._is_damaged, self._damaged)) and verified.errors:
            raise Finding(f"nothing is damaged, but verify says:\n{named}")

    def _first_failure(self, commands: list[Command]) -> Outcome | None:
        for command in commands:
            (outcome,) = self._machine.run(command)
            _check_ending(outcome, False)
            if outcome.status:
                self._say(str(outcome))
                return outcome
        return None

    def _follow(self, outcome: Outcome) -> None:
        """Do what a message asks for: delete the named file or folder, or call a command."""
        root = self.here / ROOT
        for line in outcome.errors:
            place = self.here / line.split(": ")[0]
            if root not in place.parents:
                raise Finding(f"{line}: names no file of the experiment")
            if beside := re.search(r"delete (\S+) next to it", line):
                place.with_name(beside[1]).unlink()
            elif "delete" in line and place.is_file():
                place.unlink()
            elif "delete" in line:
                shutil.rmtree(place, ignore_errors=True)
            if place.relative_to(root).parts[0] in ("encoders", "corpora", "features"):
                self._calmly(SOURCES)
            elif "`mtdnn resolve`" in line:
                run = "/".join(place.parts[-6:-1])
                self._calmly([("resolve", CALM, run)])

    def _calmly(self, commands: Iterable[Command]) -> None:
        for command in commands:
            (outcome,) = self._machine.run(command)
            _check_ending(outcome, False)
            self._say(str(outcome))


# No digest of these stands anywhere, and no score follows from them.
_UNRECORDED = (RunFolder.journal, RunFolder.logged, RunFolder.failure, RunFolder.imported)


def _check_ending(outcome: Outcome, is_signalled: bool) -> None:
    """Check that a command succeeded, or said in a line what to do; never with a traceback."""
    if "Traceback" in outcome.output:
        raise Finding(f"a traceback:\n{outcome}")
    says_why = outcome.errors or outcome.command[0] == "snakemake"
    if outcome.status and not is_signalled and not says_why:
        raise Finding(f"it failed without a reason:\n{outcome}")


def run(
    machine: Machine,
    kept: Path,
    reference: Reference,
    actions: list[Action],
    say: Callable[[str], None],
) -> int:
    """Do a sequence from the beginning to its end; return the number of faults that came.

    Raises:
        Finding: something was lost, is wrong, or was not explained.
    """
    sequence = Sequence(machine, kept, reference, say)
    for action in actions:
        sequence.do(action)
    sequence.finish()
    return sequence.struck
