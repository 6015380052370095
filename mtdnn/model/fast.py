"""The fast paths, and the switches that turn each of them off or on.

The environment variable MTDNN_PLAIN lists the fast paths to turn off, separated by commas, or is
`all`; the reference path runs in their place. Both give the same results up to rounding and the
random draw of dropout. MTDNN_TRIAL lists in the same way the trial paths to turn on: those whose
results are known to be the same, but not yet that they are faster.
"""

import os
from collections.abc import Iterable

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

TRIALS = {
    "casts": "bf16: all weights of the encoder cast at once, and all their gradients",
    "layers": "everything between two attentions, by torch.compile (types built like BERT)",
    "parts": "CUDA: steps are recorded also with accumulation, and on several GPUs",
    "products": "one product for query, key and value (types built like BERT)",
    "shadows": "bf16: the update writes the copies of weights, and reads their gradients",
    "tables": "gradients of position and segment embeddings as products",
}


def plain() -> list[str]:
    """Return the names of the fast paths whose reference path runs instead, sorted.

    Raises:
        MtdnnError: MTDNN_PLAIN names an unknown path.
    """
    return _listed("MTDNN_PLAIN", PATHS)


def fast(path: str) -> bool:
    """Return whether a fast path runs instead of its reference path."""
    return path not in plain()


def trials() -> list[str]:
    """Return the names of the trial paths that run instead of the usual ones, sorted.

    Raises:
        MtdnnError: MTDNN_TRIAL names an unknown path.
    """
    return _listed("MTDNN_TRIAL", TRIALS)


def tried(path: str) -> bool:
    """Return whether a trial path runs."""
    return path in trials()


def _listed(variable: str, known: Iterable[str]) -> list[str]:
    names = set(filter(None, os.environ.get(variable, "").replace(" ", "").split(",")))
    if names == {"all"}:
        return sorted(known)
    if unknown := names.difference(known):
        raise MtdnnError(
            f"{variable}: unknown {', '.join(sorted(unknown))}; use all, or some of "
            f"{', '.join(known)}"
        )
    return sorted(names)
