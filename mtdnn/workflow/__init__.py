"""The experiment as a whole: planning, running, importing and verifying its runs."""
