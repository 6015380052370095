"""What all tests share."""

import signal

from hypothesis import settings

# First calls import libraries, and machines are shared: time is no property to test.
settings.register_profile("mtdnn", deadline=None)
settings.load_profile("mtdnn")

# In the background of a shell Ctrl-C is ignored, also by every process that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)
