"""Every task family has its place in the registry of every sub-package."""

from typing import get_args

import pytest

from mtdnn.config.settings import COLUMNS, FORMATS, Family
from mtdnn.data import features
from mtdnn.data.corpora import rows, synthetic
from mtdnn.data.logits import ROWS
from mtdnn.data.tokenising import ENCODE
from mtdnn.evaluation.predictions import DECIDE
from mtdnn.model.batches import TARGETS
from mtdnn.model.heads import HEADS
from mtdnn.model.plain import AUTO_CLASSES
from mtdnn.training.fisher import SURPRISE
from mtdnn.workflow.estimates import LIKE

REGISTRIES = {
    "columns": COLUMNS,
    "formats": FORMATS,
    "rows' schemas": rows.SCHEMAS,
    "rows": rows.MAKERS,
    "features' schemas": features.SCHEMAS,
    "tokenising": ENCODE,
    "synthetic recipes": [recipe.family for recipe in synthetic.RECIPES.values()],
    "rows of logits": ROWS,
    "targets": TARGETS,
    "heads": HEADS,
    "likelihoods": SURPRISE,
    "plain models": AUTO_CLASSES,
    "predictions": [*DECIDE, "question_answering"],  # which has a decoder of its own
    "estimates": LIKE,
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_has_every_family(name):
    assert set(REGISTRIES[name]) == set(get_args(Family))


def test_the_targets_of_a_batch_are_columns_of_its_features():
    for family, names in TARGETS.items():
        assert set(names) <= set(features.SCHEMAS[family].names)
