"""Files of a trained run, as tests read them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mtdnn.config.layout import RunFolder
from mtdnn.training.schedule import SCHEMA, Step


def schedule_of(run_dir: Path) -> list[Step]:
    """The schedule of a run."""
    table = pq.read_table(RunFolder(run_dir).schedule, schema=SCHEMA)
    return [
        Step(**{**step, "rows": np.array(step["rows"], np.int32)}) for step in table.to_pylist()
    ]


def lines_of(run_dir: Path) -> list[dict]:
    """The training log of a run."""
    return [json.loads(line) for line in RunFolder(run_dir).log.read_text().splitlines()]
