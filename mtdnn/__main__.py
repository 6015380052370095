"""`python -m mtdnn` is `mtdnn`."""

import sys

from mtdnn.cli.main import main

sys.exit(main())
