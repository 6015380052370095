"""`python -m mtdnn` is `mtdnn`."""

import sys

from mtdnn.cli import main

sys.exit(main())
