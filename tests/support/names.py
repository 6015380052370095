"""Names that are valid in a file system and dangerous in a shell."""

AWKWARD = 'my "res" $HOME `y` é; & | < > ~ * ! #'
"""Every special character has a meaning to a shell. Snakemake cannot take `'` and backslashes."""
