"""What all tests share."""

from hypothesis import settings

# First calls import libraries, and machines are shared: time is no property to test.
settings.register_profile("mtdnn", deadline=None)
settings.load_profile("mtdnn")
