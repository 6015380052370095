"""What all tests share."""

import signal
from collections import Counter

import pytest
from hypothesis import settings

# First calls import libraries, and machines are shared: time is no property to test.
settings.register_profile("mtdnn", deadline=None)
settings.load_profile("mtdnn")

# In the background of a shell Ctrl-C is ignored, also by every process that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # without those that are deselected
def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first: else the last one would run alone."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
