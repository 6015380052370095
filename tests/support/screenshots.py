"""Photograph a finished demo's report and its runs in MLflow, for README: `make pictures`."""

import sys
import tempfile
from pathlib import Path

import pytest

from mtdnn.config.loading import load
from mtdnn.machine.files import read_product
from tests.support.browser import open_page
from tests.support.mlflow_server import Server

PICTURES = Path(__file__).parents[2] / "docs/pictures"


def take(config: Path) -> None:
    """Write `report.png` and `mlflow.png`.

    Args:
        config: the experiment's file; the experiment must be finished.
    """
    experiment = load(config)
    page = read_product(experiment.layout.store)["page"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), experiment.store_uri) as server,
        open_page(("file:", "data:", "blob:", server.address)) as browser,
    ):
        browser.goto(experiment.layout.report.absolute().as_uri())
        browser.wait_for_timeout(4_000)
        browser.screenshot(path=PICTURES / "report.png")
        browser.goto(f"{server.address}/{page}")
        browser.get_by_text("w0.8").first.wait_for()
        browser.get_by_role("button", name="Close").first.click()  # the assistant
        browser.wait_for_timeout(4_000)
        browser.screenshot(path=PICTURES / "mlflow.png")


if __name__ == "__main__":
    try:
        take(Path(sys.argv[1]))
    except pytest.skip.Exception as error:
        sys.exit(str(error))
