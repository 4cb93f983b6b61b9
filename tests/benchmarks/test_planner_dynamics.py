"""The comparison of dynamics on the toy robot: shared pretraining, differences of the variants, resumed runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.part import Part
from benchmarks.planner import dynamics as study
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint, read_manifest
from hnet_vjepa.models.prefix_dynamics import PrefixDynamics
from hnet_vjepa.models.world_model import Dynamics, FlatDynamics
from tests import toy
from tests.benchmarks.square import TASK, check_table, result_of

FROZEN, PREFIX, VECTOR = "slots, MLP step, encoder frozen", "slots, all steps in one pass", "one vector, MLP step"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> study.Study:
    path = tmp_path_factory.mktemp("config") / "toy.yaml"
    path.write_text(yaml.safe_dump(toy.config().model_dump(mode="json")))
    short = {
        **study.SHORT,
        "pretrain.steps": 2,
        "action.steps": 2,
        "action.batch_size": 4,
        "heads.steps": 2,
        "heads.batch_size": 4,
        "plan.horizon": 2,
    }
    return study.Study(TASK, 4.0, str(path), {**short, "plan.candidates": 8}, pairs=3)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def part(small: study.Study, work: Path, toy_store: Path) -> Part:
    return study.dynamics(small, work, replayed=2, rounds=2, record=lambda *_: toy_store)


@pytest.fixture(scope="module")
def trained(part: Part, small: study.Study, work: Path) -> dict[str, Checkpoint]:
    return {variant: load_checkpoint(study.checkpoint(small, work, variant, 0)) for variant in study.VARIANTS}


def test_variants_share_one_pretraining_and_differ_in_what_they_name(
    trained: dict[str, Checkpoint], work: Path
) -> None:
    shared = load_checkpoint(work / "square" / "shared-0" / "pretrain")
    kinds = {variant: type(found.model.world_model.dynamics) for variant, found in trained.items()}
    flat, begun = FlatDynamics, shared.model.backbone.encoder
    assert list(kinds.values()) == [flat, Dynamics, PrefixDynamics, flat, flat]
    for variant, found in trained.items():
        assert found.manifest.phases[-1].started_from == shared.fingerprint
        assert found.manifest.phases[-1].steps == 2 + 2  # and of its stage heads
        weights = zip(found.model.backbone.encoder.parameters(), begun.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights) == (variant == FROZEN)
    model = trained[VECTOR].model
    assert (model.config.model.backbone.slots, model.config.model.world_model.state_dim) == (1, 288)


def test_variants_change_only_the_fields_they_name() -> None:
    for task in study.STUDIES:
        made = {variant: task.settings(variant, 3).model_dump() for variant in study.VARIANTS}
        for variant, changes in study.VARIANTS.items():
            changed = {".".join(path) for path in differences(made[study.FLAT], made[variant])}
            assert changed <= set(changes), variant
            assert changed or variant == study.FLAT
        flat = task.settings(study.FLAT, 3)
        assert flat.plan.horizon <= flat.action.clip_frames - 2  # so that the plan is one pass of the prefix dynamics
        vector, world = task.settings(VECTOR, 3), flat.model.world_model
        assert vector.model.backbone.slots * vector.model.world_model.state_dim == (
            flat.model.backbone.slots * world.state_dim
        )
        assert task.tolerance in task.task.tolerances


def differences(a: Any, b: Any) -> list[tuple[str, ...]]:
    if not isinstance(a, dict):
        return [] if a == b else [()]
    return [(key, *rest) for key in a for rest in differences(a[key], b[key])]


def test_a_training_is_repeated_only_when_its_settings_change(
    part: Part, small: study.Study, work: Path, toy_store: Path
) -> None:
    path = study.checkpoint(small, work, PREFIX, 0)
    weights, moment = read_manifest(path).fingerprint, path.stat().st_mtime_ns
    cell = study.make_cell(small, toy_store, work, PREFIX, 0)
    assert cell == study.Cell(**json.loads((path.parent.parent / "cell.json").read_text())["cell"])
    assert path.stat().st_mtime_ns == moment
    fewer = study.make_cell(replace(small, pairs=2), toy_store, work, PREFIX, 0)
    assert fewer.distances == cell.distances[:2] and fewer.open_loop == cell.open_loop  # equal weights ...
    assert read_manifest(path).fingerprint == weights and path.stat().st_mtime_ns != moment  # ... of a new training


def test_success_is_counted_over_the_trainings_and_compared_pair_by_pair(small: study.Study) -> None:
    ends = {"a": [[0.0, 4.0], [5.0, 9.0]], "b": [[5.0, 5.0], [5.0, 1.0]]}
    cells = {
        name: [study.Cell(1.0 + i, 0.5 + i, None, distances) for i, distances in enumerate(of_seeds)]
        for name, of_seeds in ends.items()
    }
    first, second = study.rows(small, cells, {"a": 2.0, "b": 3.0})
    assert (first["success_end"]["successes"], second["success_end"]["successes"]) == (2, 1)
    assert (first["trainings"], second["trainings"]) == ([1.0, 0.0], [0.0, 0.5])
    assert second["against_first"]["difference"] == -0.25
    assert (second["against_first"]["only_first"], second["against_first"]["only_second"]) == (1, 2)
    assert (first["final_distance"], second["final_distance"], second["cpu_ms"]) == (4.5, 5.0, 3.0)
    assert (first["train_cpu_s"], first["open_loop"], first["open_loop_cm"]) == (1.5, 1.0, None)


def test_the_part_has_a_row_for_every_variant_and_a_table(part: Part) -> None:
    rows = part.behind["rows"]
    assert [row["variant"] for row in rows] == list(study.VARIANTS)
    assert all(row["cpu_ms"] > 0 and row["train_cpu_s"] > 0 and np.isfinite(row["open_loop"]) for row in rows)
    assert {row["success_end"]["trials"] for row in rows} == {3}
    table = study.table(result_of(dynamics__square=part))
    check_table(table)
    assert len(table.rows) == len(rows)
    assert table.rows[0][0] == "`square`, within 4 px" and not any(row[0] for row in table.rows[1:])
    assert table.rows[0][4] == "–" and "points, p = " in table.rows[1][4]
    assert ": 2 + 2 on square." in table.note and table.parts == ("dynamics-square",)
