"""The tiny experiment under test, finished in every version of its settings, and what is in it.

Everything in it is determined by its settings, so that each file of a run is recognised by its
content, whatever happened before.
"""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mtdnn.config.layout import STEPS, Layout, RunFolder
from mtdnn.config.loading import load
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.machine.files import digest, read_json, sha256
from tests.faults.process import Command, Machine
from tests.support.factories import SMALL
from tests.support.tiny import make_encoder

QA, QA_SC = "tiny/qa/w1.0/default/seed1", "tiny/qa_sc/w0.8/default/seed1"
RUNS = (QA, QA_SC)
ROOT = Path("results", "small")
LAYOUT = Layout(ROOT)
FOREIGN = Path("elsewhere", "results", "small", "runs", QA_SC)
"""A run that was trained elsewhere."""
SETTINGS = {
    **copy.deepcopy(SMALL),
    "encoders": {"tiny": {"label": "Tiny", "source": {"kind": "files", "path": "encoder"}}},
    "features": {"max_length": 96, "max_question_length": 48, "stride_tokens": 24},
    "training": {"epochs": 1, "batch_size": 8},
    "variants": {},
    "figures": {},
}
VERSIONS = {
    "a.yaml": {},
    "learning.yaml": {"training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.001}},
    "decoding.yaml": {"decoding": {"n_best": 10}},
}
"""The experiment, with other settings of training, and with other settings of decoding."""
CALM = "a.yaml"
SOURCES: tuple[Command, ...] = (
    ("encoder", CALM, "tiny"),
    *(("corpus", CALM, name) for name in ("squad", "cola")),
    *(("features", CALM, "tiny", name) for name in ("squad", "cola")),
)


def finishing(version: str) -> list[Command]:
    """The commands that finish the experiment; each of them may be repeated."""
    scoring = [("metrics", version, str(LAYOUT.root / "runs" / run)) for run in RUNS]
    return [("run", version, "--threads", "1"), *scoring, *writing(version)]


def writing(version: str) -> list[Command]:
    """The commands that write what follows from scores."""
    return [(name, version) for name in ("statistics", "table", "cases", "summary", "sync")]


# --- what is in it -------------------------------------------------------------------------------


def tables(folder: Path) -> dict[str, str]:
    """The tables and their statistics, without training times."""
    places = [*folder.glob(f"{ROOT}/tables/*"), *folder.glob(f"{ROOT}/comparisons/*")]
    places += [folder / LAYOUT.all_statistics, folder / LAYOUT.summary]
    return {
        str(path.relative_to(folder)): re.sub(r"(?<=[Tt]raining time )\S+ \S+", "…", text)
        for path in sorted(places)
        if not path.name.startswith(".") and path.exists()
        for text in [path.read_text(encoding="utf-8")]
    }


def sources(folder: Path) -> dict[str, str]:
    """The digest of each file of the encoder, the corpora and the features."""
    root = folder / ROOT
    return {
        str(path.relative_to(root)): sha256(path)
        for kind in ("encoders", "corpora", "features")
        for path in sorted(root.glob(f"{kind}/**/*"))
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }


PARTS = ("trained", "evaluated", "scored")


def files_of(run: Path, part: str) -> Iterator[Path]:
    """The files of a run that belong to one part of it."""
    if part == "trained":
        yield from (run / name for name in STEPS["schedule"] + STEPS["train"])
        for path in sorted((run / RunFolder.model).glob("*")):
            if path != RunFolder(run).description:
                yield path
    else:
        yield from (run / name for name in STEPS["evaluate" if part == "evaluated" else "metrics"])


def content(path: Path) -> str:
    """The digest of a run's file, without times."""
    if path.name == RunFolder.log:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return digest([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    if path.suffix == ".json" and path.name in RunFolder.description:
        record = read_json(path)
        return digest([record["fingerprint"], record["files"]])
    if path.name == RunFolder.metrics:
        return digest({k: v for k, v in read_json(path).items() if k != "provenance"})
    return sha256(path)


def contents(run: Path, part: str) -> dict[str, str]:
    """The digest of each existing file of a part, without times; of damaged ones "damaged"."""
    found = {}
    for path in files_of(run, part):
        if path.is_file():
            try:
                found[str(path.relative_to(run))] = content(path)
            except Exception:
                found[str(path.relative_to(run))] = "damaged"
    return found


@dataclass
class Reference:
    """What an undisturbed experiment holds, in each version of its settings.

    Attributes:
        tables: of the version `CALM`.
        sources: digests of the files of encoder, corpora and features.
        parts: by version, run and part: the content of the part's files.
        configs: by version and run: its `config.yaml`.
    """

    tables: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    parts: dict[tuple[str, str, str], dict[str, str]] = field(default_factory=dict)
    configs: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def version_of(self, run: str, part: str, found: dict[str, str]) -> set[str]:
        """The versions in which a part of a run is complete and has this content."""
        return {v for v in VERSIONS if self.parts[v, run, part] == found}


def prepare(machine: Machine, kept: Path) -> Reference:
    """Finish the experiment in every version of its settings.

    Args:
        machine: runs the commands.
        kept: gets a copy of the experiment with one finished run of two.
    """
    here, reference = machine.folder, Reference()
    make_encoder(here / "encoder")
    (here / "tmp").mkdir()
    for name, changes in VERSIONS.items():
        settings = {**SETTINGS, **changes}
        (here / name).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    _all(machine, SOURCES)
    reference.sources = sources(here)
    text = dump_yaml(load(here / CALM))  # as Snakemake writes it
    (here / LAYOUT.experiment).write_text(text, encoding="utf-8")
    for version in [*VERSIONS][::-1]:  # the last is the one to keep
        if version != "decoding.yaml":
            shutil.rmtree(here / ROOT / "runs", ignore_errors=True)
        _all(machine, finishing(version))
        for run in RUNS:
            folder = here / ROOT / "runs" / run
            reference.configs[version, run] = RunFolder(folder).config.read_bytes()
            for part in PARTS:
                reference.parts[version, run, part] = contents(folder, part)
    reference.tables = tables(here)
    for path in (here / ROOT).parent.glob("ml*"):  # the store begins anew, with one run
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (here / ROOT / "runs" / QA / RunFolder.logged).unlink()
    _all(machine, [("store", CALM), ("sync", CALM, str(LAYOUT.root / "runs" / QA))])
    place = here / ROOT / "runs" / QA_SC
    (here / FOREIGN).parent.mkdir(parents=True)
    shutil.move(place, here / FOREIGN)
    shutil.copytree(here, kept)
    return reference


def _all(machine: Machine, commands: list[Command] | tuple[Command, ...]) -> None:
    for command in commands:
        (outcome,) = machine.run(command)
        assert outcome.status == 0, outcome
