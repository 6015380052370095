"""Who may read what is written, and what another user may do with results that are not theirs."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.config.layout import Layout
from mtdnn.config.settings import EncoderSettings
from mtdnn.data import encoders
from mtdnn.evaluation import predictions
from mtdnn.model.saving import export
from mtdnn.training.checkpoints import Checkpoints
from mtdnn.training.loop import train
from mtdnn.workflow.importing import import_run
from tests.support.finished import make_finished
from tests.support.tiny import make_encoder, make_run_folder, make_tiny_experiment

MIXTURE = {"mixture": "squad_cola", "weight": 0.5}
CHANGES = {
    "training": {"epochs": 1, "batch_size": 8},
    "tables": {"t": {"title": "t", "rows": [{"encoder": "tiny", **MIXTURE}]}},
}


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_shared(folder: Path, umask: int) -> None:
    """Check that each file and folder has the permissions that any new one gets."""
    paths = [path for path in folder.rglob("*") if not path.name.endswith((".lock", ".guard"))]
    assert len(paths) > 3
    for path in paths:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_every_file_of_a_run_has_the_permissions_of_its_neighbours(tmp_path, umask, monkeypatch):
    run_dir, run = make_run_folder(tmp_path / "there", rows=8, **MIXTURE, **CHANGES)
    save = Checkpoints.save

    def look(self, *arguments):
        save(self, *arguments)
        assert_shared(Layout.of_run(run_dir).root / "state", umask)

    monkeypatch.setattr(Checkpoints, "save", look)
    train(run_dir, run, threads=1, checkpoint_seconds=0)
    predictions.evaluate(run_dir, run, threads=1)
    assert_shared(run_dir, umask)
    export(run_dir, run, "squad", tmp_path / "exported")
    assert_shared(tmp_path / "exported", umask)


def test_a_cut_encoder_has_the_permissions_of_its_neighbours(tmp_path, umask):
    source = {"kind": "files", "path": str(make_encoder(tmp_path / "source"))}
    settings = EncoderSettings(label="Tiny", source=source, layers=1)
    encoders.fetch("tiny", settings, lock=tmp_path / "lock.json", output=tmp_path / "cut")
    assert_shared(tmp_path / "cut", umask)


def test_an_imported_run_does_not_keep_the_permissions_of_its_origin(tmp_path, umask):
    run_dir, run = make_run_folder(tmp_path / "there", rows=8, **MIXTURE, **CHANGES)
    train(run_dir, run, threads=1)
    for path in run_dir.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    target = import_run(make_tiny_experiment(tmp_path / "here", **CHANGES), run_dir)
    assert_shared(target, umask)


# --- another user ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Results of somebody else, which anybody may read: the folder, and the experiment's file."""
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to become another user")
    folder = tmp_path_factory.mktemp("foreign")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    home = tmp_path_factory.mktemp("home")
    os.chown(home, READER, READER)
    return make_finished(folder), home


# An id that belongs to nobody here. It may read every file, so that it can start this Python
# wherever that is, and write none but its own.
READER = 64_321
BECOME = [
    *("setpriv", f"--reuid={READER}", f"--regid={READER}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]


def as_reader(foreign: tuple[Path, Path], *command: str) -> subprocess.CompletedProcess:
    results, home = foreign
    run = results / "runs/tiny/squad_cola/w0.5/default/seed1"
    places = {"RESULTS": results, "YAML": results / "experiment.yaml", "RUN": run}
    words = [str(places.get(word, word)) for word in command]
    done = subprocess.run(
        [*BECOME, sys.executable, "-m", "mtdnn", *words],
        cwd=home,
        env={**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "setpriv:" in done.stderr:
        pytest.skip(f"cannot become another user here: {done.stderr.strip()}")
    assert "Traceback" not in done.stderr, done.stderr
    return done


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.parent.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("verify", "RESULTS"), "runs in MLflow: 1 of 1 correct"),
        (("check", "YAML"), "valid, 1 runs"),
        (("plan", "YAML", "--no-measuring"), "1 CPU thread"),
        (("run", "YAML"), "up to date"),
        (("train", "RUN"), "up to date"),
        (("evaluate", "RUN"), "up to date"),
    ],
)
def test_results_of_another_user_can_be_read_and_checked(foreign, command, said):
    before = state_of(foreign[0])
    done = as_reader(foreign, *command)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr
    assert state_of(foreign[0]) == before


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (("table", "YAML"), "tables: Permission denied; give yourself permission"),
        (("metrics", "YAML", "RUN"), "state/runs/"),
        (("evaluate", "RUN", "--force"), "state/runs/"),
        (("sync", "YAML"), "mlflow.db"),
        (("checksums", "YAML"), "tiny: Permission denied; give yourself permission"),
    ],
)
def test_commands_that_write_say_what_they_need(foreign, command, needs):
    before = state_of(foreign[0])
    done = as_reader(foreign, *command)
    errors = [line for line in done.stderr.splitlines() if line.startswith("mtdnn: error:")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert needs in errors[0] and "ermission denied" in errors[0]
    assert state_of(foreign[0]) == before
