"""Files of logits: what a trained run says about every training item of a corpus, in its order.

A file has one row of logits for each token or sequence of the corpus's training features. Its
header says from which weights and which features they were computed, so they can be matched to
items by their numbers, and holds a digest of the rows.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from mtdnn.config.layout import FEATURES, WEIGHTS, Layout, RunFolder, RunId
from mtdnn.config.settings import Family, RunSettings
from mtdnn.data.features import Features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_product, replacing, save_tensors

ROWS: dict[Family, Literal["token", "sequence"]] = {
    "question_answering": "token",
    "multiple_choice": "sequence",
    "sequence_classification": "sequence",
    "regression": "sequence",
    "token_classification": "token",
}
"""What has a row of logits, by family."""

_LOGITS, _DIGEST = "logits", "digest"


def weights_digest(layout: Layout, run: RunId) -> str:
    """Return the digest of a run's trained weights.

    Raises:
        MtdnnError: the run is not trained yet.
    """
    description = RunFolder(layout.run(run)).description
    if not description.exists():
        raise MtdnnError(f"{description}: no such file; train {run.path} first")
    files = read_product(description).get("files") or {}
    return digest({name: files.get(name) for name in WEIGHTS})


def origin_of(layout: Layout, teacher: RunId, run: RunSettings, corpus: str) -> dict[str, str]:
    """Return from what a teacher's logits are computed, as the header of their file says it.

    Args:
        layout: the experiment's paths.
        teacher: the run that gives the logits.
        run: settings of a run that learns them, or the teacher's own.
        corpus: the corpus.

    Raises:
        MtdnnError: the teacher is not trained yet, or the features are missing.
    """
    features = layout.features(run.encoder_name, run.features_variant, corpus) / FEATURES
    return {
        "weights": weights_digest(layout, teacher),
        "features": str(read_product(features)["splits"]["train"].get("sha256")),
    }


def row_starts(features: Features) -> np.ndarray:
    """Return the first row of logits of every item, and the number of rows; (items + 1,)."""
    by_token = ROWS[features.family] == "token"
    return features.item_tokens if by_token else features.item_starts


def write(path: Path, logits: np.ndarray, origin: Mapping[str, str]) -> None:
    """Write a file of logits.

    Args:
        path: the file.
        logits: (rows, outputs) fp32.
        origin: what `origin_of` returned.
    """
    import torch

    header = {**origin, _DIGEST: _digest_of(logits)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        save_tensors({_LOGITS: torch.from_numpy(logits)}, draft, header)


def _digest_of(logits: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).data).hexdigest()


class Logits:
    """A file of logits, of which rows are read when they are needed.

    Args:
        path: the file.

    Raises:
        MtdnnError: the file is missing or not readable.
    """

    def __init__(self, path: Path):
        import safetensors

        self.path, opener = path, cast(Any, safetensors.safe_open)
        try:
            self._file = opener(path, framework="np")
            self._rows = self._file.get_slice(_LOGITS)
        except FileNotFoundError:
            raise MtdnnError(f"{path}: no such file; `mtdnn logits` writes it") from None
        except (OSError, safetensors.SafetensorError) as error:
            raise MtdnnError(
                f"{path}: not a readable file of logits ({error}); delete it and run `mtdnn logits`"
            ) from None

    @cached_property
    def header(self) -> dict[str, str]:
        """From what they were computed, and the digest of the rows."""
        return dict(self._file.metadata() or {})

    def comes_from(self, origin: Mapping[str, str]) -> bool:
        """Return whether the logits were computed from these weights and features."""
        return {name: self.header.get(name) for name in origin} == dict(origin)

    def check(self, origin: Mapping[str, str]) -> None:
        """Check that the logits are those of an origin, and as they were written.

        Raises:
            MtdnnError: they are not.
        """
        if not self.comes_from(origin):
            raise MtdnnError(
                f"{self.path}: was computed from another model or from other features than are "
                "here now; delete it and run `mtdnn logits`"
            )
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Check that the logits are as they were written.

        Raises:
            MtdnnError: they are not.
        """
        if _digest_of(self._file.get_tensor(_LOGITS)) != self.header.get(_DIGEST):
            raise MtdnnError(
                f"{self.path}: was changed since it was written; delete it and run `mtdnn logits`"
            )

    def of(self, starts: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the rows of some items, laid end to end, (rows, outputs) fp32.

        Args:
            starts: the first row of every item, as `row_starts` returns it.
            items: (N,) the numbers of the items.
        """
        return np.concatenate([self._rows[starts[item] : starts[item + 1]] for item in items])
