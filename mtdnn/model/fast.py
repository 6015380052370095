"""The fast paths, and the switch that turns each of them off.

The environment variable MTDNN_PLAIN lists the fast paths to turn off, separated by commas, or is
`all`; the reference path runs in their place. Both give the same results up to rounding and the
random draw of dropout.
"""

import os

from mtdnn.errors import MtdnnError

PATHS = {
    "dropout": "CPU: dropout masks from 16 random bits for each element",
    "attention": "CPU: dropout in matrix products, short sequences in one call; CUDA: flash",
    "compile": "CUDA: the parameter update in one pass, by torch.compile",
    "embedding": "CPU: the gradient of the word embeddings holds the words of the batch only",
    "graphs": "CUDA: steps recorded once for each shape and replayed (CUDA graphs)",
    "memory": "CPU: freed memory goes back to the system every few steps",
    "optimizer": "CPU: the parameter update in portions that fit the cache",
    "prefetch": "batches assembled ahead on another thread",
}


def plain() -> list[str]:
    """Return the names of the fast paths whose reference path runs instead, sorted.

    Raises:
        MtdnnError: MTDNN_PLAIN names an unknown path.
    """
    names = set(filter(None, os.environ.get("MTDNN_PLAIN", "").replace(" ", "").split(",")))
    if names == {"all"}:
        return sorted(PATHS)
    if unknown := names - PATHS.keys():
        raise MtdnnError(
            f"MTDNN_PLAIN: unknown {', '.join(sorted(unknown))}; use all, or some of "
            f"{', '.join(PATHS)}"
        )
    return sorted(names)


def fast(path: str) -> bool:
    """Return whether a fast path runs instead of its reference path."""
    return path not in plain()
