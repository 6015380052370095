"""Entities in the tags of words: which words belong together, and of which kind they are."""

from collections.abc import Sequence

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""

_WITHIN, _LAST = ("I", "E", "L"), ("E", "L", "S", "U")


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a sentence: kind, first word, and the word after the last.

    Tags are read as CoNLL's own scorer does (Tjong Kim Sang and De Meulder 2003): an entity
    begins at `B-`, and at an `I-` that continues none of its kind. `E-` or `L-` ends one, and `S-`
    or `U-` is one of a single word (BIOES, BILOU). So is a word whose tag has no such prefix, for
    instance a part of speech; `O` is none.
    """
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, dash, own = tag.partition("-")
        if not dash or prefix not in ("B", *_WITHIN, *_LAST):
            prefix, own = ("", "") if tag == OUTSIDE else ("S", tag)
        if own and own == kind and prefix in _WITHIN:
            pass
        else:
            if kind:
                found.add((kind, start, place))
            kind, start = own, place
        if kind and prefix in _LAST:
            found.add((kind, start, place + 1))
            kind = ""
    return found
