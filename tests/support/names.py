"""Names that are valid in a file system and dangerous in a shell."""

AWKWARD = """my "res" $HOME `y` 'z' \\ é; & | < > ~ * #"""
"""Every special character has a meaning to a shell."""
