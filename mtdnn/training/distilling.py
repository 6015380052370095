"""What teachers say about the batches of a run, and the share that this has in their losses.

Clark, Luong, Khandelwal, Manning, Le: "BAM! Born-Again Multi-Task Networks for Natural Language
Understanding" (2019); Liu, He, Chen, Gao: "Improving Multi-Task Deep Neural Networks via Knowledge
Distillation for Natural Language Understanding" (2019).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from mtdnn.config.layout import Layout
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import Features
from mtdnn.data.logits import ROWS, Logits, origin_of, row_starts
from mtdnn.model.batches import Lesson, PackedBatch
from mtdnn.training.schedule import Step


class Teachers:
    """The teachers of a run: the logits of each of its corpora that has one.

    Args:
        layout: the experiment's paths.
        run: the run's settings.
        features: the training features of each corpus.
        steps: the number of the run's steps.

    Raises:
        MtdnnError: logits are missing, were changed, or were computed from other weights or
            features than are here.
    """

    def __init__(
        self, layout: Layout, run: RunSettings, features: Mapping[str, Features], steps: int
    ):
        self._distillation, self._steps = run.training.distillation, steps
        self._teachers: dict[str, _Teacher] = {}
        for corpus, teacher in run.teachers.items():
            logits = Logits(layout.logits(teacher.path, corpus))
            logits.check(origin_of(layout, teacher, run, corpus))
            by_token = ROWS[features[corpus].family] == "token"
            self._teachers[corpus] = _Teacher(logits, row_starts(features[corpus]), by_token)

    def taught(self, step: Step, batch: PackedBatch) -> PackedBatch:
        """Return the batch of a step with what its teacher says; without one, as it is.

        Args:
            step: the step; its `rows` are the items of the batch.
            batch: the batch, without a tail.
        """
        if self._distillation is None or step.corpus not in self._teachers:
            return batch
        teacher = self._teachers[step.corpus]
        share = teacher_share(self._distillation.share, step.step, self._steps)
        lesson = Lesson(
            logits=torch.from_numpy(teacher.logits.of(teacher.starts, step.rows)),
            share=torch.tensor(share),
            temperature=self._distillation.temperature,
            by_token=teacher.by_token,
        )
        return replace(batch, lesson=lesson)


@dataclass(frozen=True)
class _Teacher:
    """The logits of a corpus, and where those of each item are."""

    logits: Logits
    starts: np.ndarray
    by_token: bool


def teacher_share(share: float | Literal["annealed"], step: int, steps: int) -> float:
    """Return the teacher's share of the loss of step number `step`, from 0, of `steps` steps."""
    return 1 - step / steps if share == "annealed" else share
