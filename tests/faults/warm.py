"""What each command would do first and always the same: imported by the server of processes."""

from mtdnn.config.dependencies import CODE, code_of
from mtdnn.machine.provenance import environment

for _step in CODE:
    code_of(_step)
environment()
