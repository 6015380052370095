"""Settings for all tests."""

import signal
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.support import forking

# No deadlines: first calls import libraries, and machines are shared.
settings.register_profile("mtdnn", deadline=None)
settings.load_profile("mtdnn")

# A background job of a shell ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Run the server of forks, one for all processes of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        running = ExitStack()
        running.enter_context(forking.server())
        config.add_cleanup(running.close)


@pytest.hookimpl(trylast=True)  # after tests were deselected
def pytest_collection_modifyitems(items):
    """Run files with the most slow tests first, so that none of them runs alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
