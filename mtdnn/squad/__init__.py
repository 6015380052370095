"""Question answering after the model: decode answers, score them, choose thresholds.

Names resolve on first use, so that importing this package costs nothing. A step whose
code is digested imports the module it needs (`mtdnn.squad.decoding`), not this package.
"""

from importlib import import_module

_HOMES = {
    "Answers": "decoding",
    "Decoder": "decoding",
    "SpanLogits": "decoding",
    "decode": "decoding",
    "predictions_table": "decoding",
    "Scores": "scoring",
    "score_answers": "scoring",
    "score_files": "scoring",
    "best": "scoring",
    "summary": "scoring",
    "null_odds_auc": "thresholds",
    "tune": "thresholds",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
