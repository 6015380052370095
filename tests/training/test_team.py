"""How a batch is split among the processes that train together."""

import numpy as np
import pytest
import torch

from mtdnn.config.layout import Layout
from mtdnn.data.features import training_features
from mtdnn.training.team import Team, cut, tokens_of
from tests.support.tiny import make_run_folder


def test_parts_are_whole_items_of_roughly_equal_token_count():
    draw = np.random.default_rng(1)
    for count in (1, 2, 3, 8):
        for items in (1, 2, 7, 16):
            tokens = draw.integers(20, 384, items)
            parts = cut(tokens, count)
            assert sorted(place for part in parts for place in part) == list(range(items))
            totals = [tokens[part].sum() for part in parts]
            assert max(totals) - min(totals) <= tokens.max()


def test_the_weights_of_the_parts_add_up_and_each_part_has_an_item(tmp_path):
    run_dir, run = make_run_folder(tmp_path, rows=12)
    for features in training_features(Layout.of_run(run_dir), run).values():
        for rows in (np.array([3]), np.array([5, 2, 9, 1, 0])):
            teams = [Team(torch.device("cpu"), rank, 3) for rank in range(3)]
            parts = [team.part(features, rows) for team in teams]
            assert sum(weight for _, weight in parts) == pytest.approx(3)
            assert all(len(part) and set(part) <= set(rows) for part, _ in parts)
            picked = [features.pick([row], ["input_ids"]) for row in rows]
            counted = [len(item.columns["input_ids"]) for item in picked]
            assert tokens_of(features, rows).tolist() == counted
