"""A few random sequences of commands and faults; `python -m tests.faults` runs many."""

from pathlib import Path

import pytest

from tests.faults.experiment import CALM, LAYOUT, QA, Reference, prepare
from tests.faults.judge import Finding, Sequence, run
from tests.faults.process import Fault, Machine, small_disk
from tests.faults.sequences import Action, Call, Damage, draw

pytestmark = pytest.mark.slow

FOLDER = str(LAYOUT.root / "runs" / QA)
TRAIN_AGAIN = ("train", FOLDER, "--force", "--threads", "1")


class Bench:
    """A machine and the prepared experiment."""

    def __init__(self, folder: Path, can_fill: bool):
        self.machine, self.kept = Machine(folder / "disk", can_fill), folder / "kept"
        self.reference: Reference = prepare(self.machine, self.kept)

    def run(self, actions: list[Action]) -> None:
        account: list[str] = []
        try:
            run(self.machine, self.kept, self.reference, actions, account.append)
        except Finding as error:
            pytest.fail("\n".join([*account, f"FINDING: {error}"]), pytrace=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with small_disk(folder / "disk") as can_fill:
        yield Bench(folder, can_fill)


@pytest.mark.parametrize("seed", range(1, 11))
def test_nothing_finished_is_lost_and_the_tables_are_those_of_a_calm_day(bench, seed):
    bench.run(draw(seed, bench.machine.can_fill, with_snakemake=False))


# What random sequences found, as short as possible.
FOUND: dict[str, list[Action]] = {
    "damaged settings of a run": [Damage("runs/**/config.yaml", 0, "halve")],
    "a damaged description of a model": [Damage("runs/**/run.json", 0, "halve")],
    "settings of another version": [Call(("resolve", "learning.yaml", QA))],
    "a killed tokenisation": [
        Call(("features", CALM, "tiny", "cola"), Fault("SIGKILL", 5)),
        Call(("verify", str(LAYOUT.root))),
    ],
    "a full disk under MLflow's database": [
        Call(("evaluate", FOLDER, "--force")),
        Call(("metrics", CALM, FOLDER)),
        Call(("sync", CALM), Fault("full", 1, 0)),
    ],
    "damaged predictions, predicted again": [
        Damage("runs/**/predictions.parquet", 0, "halve"),
        Call(("run", CALM, QA, "--threads", "1")),
    ],
    "a damaged encoder": [Damage("encoders/*/tokenizer.json", 0, "flip"), Call(TRAIN_AGAIN)],
    "a damaged corpus": [
        Damage("corpora/squad/dev.parquet", 0, "flip"),
        Call(("features", CALM, "tiny", "squad")),
    ],
    "a damaged model": [
        Call(("run", "decoding.yaml", QA)),
        Damage("runs/**/model.safetensors", 0, "flip"),
        Call(("evaluate", FOLDER, "--force")),
    ],
    "a killed replacement of a folder": [Call(("corpus", CALM, "squad"), Fault("SIGTERM", 16))],
    "a run killed while its products took their places": [
        Call(("run", "learning.yaml", QA), Fault("SIGKILL", 50)),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_not_found_again(bench, name):
    if not bench.machine.can_fill and "full disk" in name:
        pytest.skip("mounting a small disk needs root")
    bench.run(FOUND[name])


def test_a_lost_file_is_a_finding(bench):
    """So that the tests above are able to fail."""
    sequence = Sequence(bench.machine, bench.kept, bench.reference, lambda _: None)
    (sequence.here / FOLDER / "predictions.parquet").unlink()
    with pytest.raises(Finding, match=r"evaluated: changed: .* though no command"):
        sequence.do(Call(("table", CALM)))
