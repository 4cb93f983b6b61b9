import dataclasses

import numpy as np
import pytest

from benchmarks.chunking import paired, scores, small_models, study
from hnet_vjepa.errors import UserError
from sims.core.registry import get_task
from sims.tasks import fetch, push_t


def cell(method: str, seed: int, score: float, task: str = "push-t", tokens: int = 8) -> paired.Cell:
    return paired.Cell(task, tokens, method, seed, float(tokens), 0.0, score, 0.0, score, score)


def test_the_quantile_against_tables_and_scipy() -> None:
    # The two-sided 5 % points that every table of Student's t prints.
    for freedom, point in ((1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (11, 2.201), (30, 2.042)):
        assert paired.student_quantile(freedom) == pytest.approx(point, abs=6e-4)
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 8, 23, 100):
        for confidence in (0.1, 0.8, 0.99):
            assert paired.student_quantile(freedom, confidence) == pytest.approx(
                stats.t.ppf(0.5 + confidence / 2, freedom), rel=1e-9
            )
    with pytest.raises(ValueError, match="at least 1"):
        paired.student_quantile(0)


def test_pairs_share_task_tokens_and_seed() -> None:
    """What the cells have in common cancels; cells without a partner do not count."""
    rng = np.random.default_rng(0)
    wins = {("push-t", 8, 0): 1.0, ("push-t", 16, 0): 2.0, ("fetch-push", 8, 1): 4.0, ("fetch-push", 16, 2): -1.0}
    cells = []
    for (task, tokens, seed), win in wins.items():
        level = rng.uniform(10, 60)
        cells += [cell("chunks", seed, level + win, task, tokens), cell("random", seed, level, task, tokens)]
    cells += [cell("chunks", 7, 99.0), cell("random", 8, 0.0), cell("merge", 7, 0.0)]
    rng.shuffle(cells)  # type: ignore[arg-type]
    found = paired.paired(cells, "random", "score")
    stats = pytest.importorskip("scipy.stats")
    low, _ = stats.t.interval(0.95, 3, 1.5, stats.sem(list(wins.values())))
    assert (found.mean, found.low95, found.pairs) == (pytest.approx(1.5), pytest.approx(low), 4)
    assert paired.paired(cells, "random", "success").mean == pytest.approx(1.5)
    with pytest.raises(UserError, match="needs at least 2"):
        paired.paired(cells, "merge", "score")


def test_one_model_on_tubelets_stands_against_chunks_of_every_number() -> None:
    cells = [cell("chunks", 1, 14.0, tokens=8), cell("chunks", 1, 17.0, tokens=16), cell("chunks", 2, 99.0)]
    cells += [
        cell(small_models.TUBELETS, 1, 10.0, tokens=small_models.CELLS),
        cell(small_models.TUBELETS, 1, 0.0, "fetch-push", small_models.CELLS),
    ]
    found = paired.paired(cells, small_models.TUBELETS, "score")
    assert (found.mean, found.pairs) == (pytest.approx((4.0 + 7.0) / 2), 2)


def test_tubelets_cost_what_chunks_cost() -> None:
    assert small_models.flops(small_models.TUBELETS) == pytest.approx(small_models.flops("chunks"), rel=0.1)
    config = small_models.settings("push-t", small_models.CELLS, small_models.TUBELETS, 1).model.backbone
    assert config.encoder.kind == "patches" and config.routing.grid == small_models.GRID


def test_the_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(400):
        wins = rng.normal(3.0, 5.0, 12)
        cells = [cell("chunks", i, win) for i, win in enumerate(wins)] + [cell("merge", i, 0.0) for i in range(12)]
        below += paired.paired(cells, "merge", "score").low95 <= 3.0
    assert 0.95 < below / 400 <= 1.0  # one side of a two-sided interval: 97.5 %


def test_balanced_accuracy_by_hand() -> None:
    true = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)
    said = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    # First label: 1/2 and 2/2; second: 1/1 and 2/3; the third never holds and does not count.
    assert scores.balanced_accuracy(said, true) == pytest.approx((0.75 + (1 + 2 / 3) / 2) / 2)
    assert scores.balanced_accuracy(np.ones_like(true), true) == pytest.approx(0.5)
    assert np.isnan(scores.balanced_accuracy(said[:, 2:], true[:, 2:]))


@pytest.mark.parametrize("name", scores.NEAR)
def test_object_and_robot_are_found_among_the_recorded_numbers(name: str) -> None:
    task = get_task(name)
    found = scores.bodies(task)
    pusher_and_block = {"pusher": [0, 1], "block": [2, 3]}
    assert found == ({"cube": [0, 1, 2], "gripper": [3, 4, 5]} if name == "fetch-push" else pusher_and_block)
    assert scores.robot_of(task) == found["gripper" if name == "fetch-push" else "pusher"]


@pytest.mark.parametrize("name", scores.NEAR)
def test_reaching_asks_for_the_robots_place_alone(name: str) -> None:
    task = scores.reaching(get_task(name))
    state = np.arange(6, dtype=np.float32)
    elsewhere, moved = state.copy(), state.copy()
    elsewhere[scores.bodies(task)[task.subject]] += 100
    moved[scores.robot_of(task)[1]] += 3
    assert task.distance(elsewhere, state) == 0 and task.distance(moved, state) == pytest.approx(3)
    assert task is scores.reaching(get_task(name))  # so that pairs are drawn once


def test_tolerances_come_from_the_tasks() -> None:
    push, block = get_task("fetch-push"), get_task("push-t")
    assert scores.NEAR["fetch-push"] == push.tolerances[0]
    apart = np.array([0, 0, scores.NEAR["push-t"], 0, 1, 0], np.float32)
    assert block.distance(apart, np.array([0, 0, 0, 0, 1, 0], np.float32)) == pytest.approx(block.tolerances[0])
    assert pytest.approx({"fetch-push": 2 * fetch.RANGE / 10, "push-t": 2 * push_t.STARTS / 10}) == scores.READ


@pytest.mark.parametrize("method", small_models.METHODS)
@pytest.mark.parametrize("tokens", small_models.TOKENS)
def test_methods_differ_in_their_tokenizer_alone(method: str, tokens: int) -> None:
    config, plain = (small_models.settings("push-t", tokens, name, 1) for name in (method, "uniform"))
    routing = config.model.backbone.routing
    count = routing.tokens if method == "chunks" else routing.grid[0] * routing.grid[1]
    assert count == tokens
    backbone = config.model.backbone.model_copy(update={"routing": plain.model.backbone.routing})
    assert config.model_copy(update={"model": config.model.model_copy(update={"backbone": backbone})}) == plain


def test_metrics_and_table_of_all_cells() -> None:
    means = {"chunks": 50.0, "uniform": 48.0, "random": 40.0, "merge": 51.0}
    cells = [
        cell(method, seed, mean + seed, task, tokens)
        for seed in study.SEEDS
        for task in scores.NEAR
        for tokens in small_models.TOKENS
        for method, mean in means.items()
    ]
    found = paired.metrics(cells)
    assert found["seeds"] == 3 and found["tokens_equal"]
    assert f"chunks_minus_{small_models.TUBELETS}_points_mean" not in found  # not made yet
    for other in ("uniform", "random", "merge"):
        assert found[f"chunks_minus_{other}_points_mean"] == pytest.approx(means["chunks"] - means[other])
        assert found[f"chunks_minus_{other}_points_low95"] == pytest.approx(means["chunks"] - means[other])
    assert len(paired.means(cells)) == 16
    assert paired.means(cells)[0]["score"] == pytest.approx(50.0 + sum(study.SEEDS) / len(study.SEEDS))
    off = [dataclasses.replace(c, live=c.live * 1.03) if c.method == "chunks" else c for c in cells]
    assert paired.metrics(off)["tokens_off_most"] == pytest.approx(0.03) and not paired.metrics(off)["tokens_equal"]
