"""Run `mtdnn` as `python -m mtdnn`."""

import sys

from mtdnn.cli.main import main

sys.exit(main())
