"""Every shipped model answers its recorded queries as it did when they were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.golden import FOLDER, differences, queries, read_record, write_record
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner

NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


def test_every_shipped_model_has_a_record() -> None:
    assert zoo.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_plans_as_recorded(name: str) -> None:
    assert differences(read_record(name), load_planner(zoo.path(name))) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_record_covers_what_the_model_takes(name: str) -> None:
    record, card = read_record(name), WorldModelPlanner(load_checkpoint(zoo.path(name))).card
    kinds = {plan.request["goal"]["kind"] for plan in record.plans}
    assert kinds == set(card.goals) - {"latent"}
    asked = queries(record, card)
    assert any(query.previous_actions is not None for query in asked)
    assert any(query.cost.control for query in asked)


def test_a_reordered_input_of_the_policy_prior_is_noticed() -> None:
    """The fault that names and shapes can not show: state and change trade places in the first layer."""
    checkpoint = load_checkpoint(zoo.path("fetch-push"))
    first = checkpoint.model.world_model.policy_prior.mlp[0]
    assert isinstance(first, torch.nn.Linear)
    size = (first.in_features - len(checkpoint.model.robot.action.active)) // 3
    with torch.no_grad():
        state, change, rest = first.weight.split([size, size, first.in_features - 2 * size], 1)
        first.weight.copy_(torch.cat([change, state, rest], 1))
    assert differences(read_record("fetch-push"), WorldModelPlanner(checkpoint))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: text.replace('"energy_now": ', '"energy_now": 1', 1), "SHA-256 differs"),
        (lambda text: json.dumps({**json.loads(text), "plans": json.loads(text)["plans"][:1]}), "SHA-256 differs"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, damage: object, words: str) -> None:
    assert callable(damage)
    path = write_record(read_record("fetch-reach"), tmp_path)
    assert read_record("fetch-reach", tmp_path) == read_record("fetch-reach")
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=words) as refused:
        read_record("fetch-reach", tmp_path)
    assert "\n" not in str(refused.value) and "golden record fetch-reach" in str(refused.value)
    with pytest.raises(UserError, match=r"two-room\.json is missing"):
        read_record("two-room", tmp_path)
