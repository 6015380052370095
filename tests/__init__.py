"""The tests, one folder for each sub-package; `whole` holds those of real processes."""
