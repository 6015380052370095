"""Reading the training log, also while it is being written."""

import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_text
from mtdnn.training.log import read_training


def test_a_half_written_last_line_is_ignored_and_any_other_is_an_error(tmp_path):
    log = RunFolder(tmp_path).log
    write_text(log, '{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    assert read_training(tmp_path) == [{"step": 0, "loss": 1.0}]
    write_text(log, '{"step": 0, "lo\n{"step": 1}\n')
    with pytest.raises(MtdnnError, match="line 1"):
        read_training(tmp_path)
