"""A password in the tracking URI is used, and is in nothing that a run leaves behind."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mlflow_server import Server
from tests.support.workdir import make_workdir

PASSWORD = "s3cr@t-Pa:ss"
URI = "http://ann:s3cr%40t-Pa%3Ass@127.0.0.1:{port}"
FORMS = [
    *(PASSWORD, "s3cr%40t-Pa%3Ass", "s3cr"),
    base64.b64encode(f"ann:{PASSWORD}".encode()).decode(),
]


def leaks(folder: Path) -> list[str]:
    """Files below a folder that contain a form of the password; not the user's own YAML file."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "small.yaml":
            content = path.read_bytes()
            found += [f"{path}: {form}" for form in FORMS if form.encode() in content]
    return found


@pytest.mark.slow
def test_nothing_that_a_run_leaves_behind_holds_the_password(tmp_path):
    (tmp_path / "server").mkdir()
    store = f"sqlite:///{tmp_path}/server/mlflow.db"
    workdir = make_workdir(tmp_path / "work")
    del workdir.settings["tables"]["table2"], workdir.settings["tables"]["table1"]["rows"][1]
    workdir.settings |= {"figures": {}, "tracking_live": True}
    with Server(tmp_path / "server", store) as server:
        workdir.settings["tracking_uri"] = URI.format(port=server.port)
        answer = workdir.snakemake()
        assert answer.returncode == 0, answer.stdout
        assert (workdir.results / "agreement.json").exists()
        server.kill()
        # Messages about a server that is gone.
        for command in ("sync", "agreement"):
            refused = workdir.call(sys.executable, "-m", "mtdnn", command, "small.yaml")
            assert refused.returncode == 2 and "MLflow failed" in refused.stdout
            assert not [form for form in FORMS if form in refused.stdout]
    assert not [form for form in FORMS if form in answer.stdout]
    assert leaks(tmp_path) == []


def test_a_password_that_breaks_the_uri_is_not_shown(tmp_path):
    workdir = make_workdir(tmp_path)
    workdir.settings["tracking_uri"] = "https://ann:s3cr/et@host"
    for command in ("check", "plan"):
        answer = workdir.call(sys.executable, "-m", "mtdnn", command, "small.yaml")
        assert answer.returncode == 2
        message = r"mtdnn: error: small\.yaml: line \d+: tracking_uri: is not a URI"
        assert re.match(message, answer.stdout)
        assert "s3cr" not in answer.stdout
    shown = workdir.snakemake("--dry-run")
    assert isinstance(shown, subprocess.CompletedProcess) and shown.returncode != 0
    assert "s3cr" not in shown.stdout
