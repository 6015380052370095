"""Fast paths, and the switch that turns each off.

The environment variable MTDNN_PLAIN names those that are not to be taken, separated by commas,
or says `all`. The plain ones give the same results up to rounding and the draw of dropout.
"""

import os

from mtdnn.errors import MtdnnError

PATHS = {
    "dropout": "CPU: dropout masks from 16 random bits for each element",
    "attention": "CPU: dropout in plain products, short sequences together; CUDA: flash, unpadded",
    "compile": "CUDA: the update of the parameters in one pass, by torch.compile",
    "embedding": "CPU: the gradient of the word embeddings holds only the words of the batch",
    "graphs": "CUDA: steps recorded once for each shape and replayed (CUDA graphs)",
    "memory": "CPU: freed memory goes back to the system every few steps",
    "optimizer": "CPU: the update of the parameters in portions that fit the cache",
    "prefetch": "batches assembled ahead on another thread",
}


def plain() -> list[str]:
    """Names of the fast paths that are switched off, sorted."""
    names = set(filter(None, os.environ.get("MTDNN_PLAIN", "").replace(" ", "").split(",")))
    if names == {"all"}:
        return sorted(PATHS)
    if unknown := names - PATHS.keys():
        raise MtdnnError(
            f"MTDNN_PLAIN: unknown {', '.join(sorted(unknown))}; known are all, {', '.join(PATHS)}"
        )
    return sorted(names)


def fast(path: str) -> bool:
    """Whether a fast path is to be taken."""
    return path not in plain()
