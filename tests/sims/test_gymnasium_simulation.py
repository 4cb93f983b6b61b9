"""Foreign Gymnasium environments: frames, three ways of restoring, data, evaluation and diagnosis without an expert."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from sims.core.check import Finding, check_task
from sims.core.collect import collect, record
from sims.core.gymnasium_simulation import AttributeMemory, GymnasiumSimulation, MujocoMemory, ReplayMemory
from sims.core.rendering import backend
from sims.core.task import Task
from sims.diagnosis.to_go import to_go
from sims.evaluation.manifest import check_pairs, folder_of, make_manifest, write_manifest
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import ceilings
from tests.sims.foreign import CAMERA, CAR, FORGETFUL, PENDULUM, POLE

needs_gl = pytest.mark.skipif(backend() == "raycast", reason="MuJoCo's own pictures need EGL or OSMesa")
TASKS = [PENDULUM, CAR, pytest.param(POLE, marks=needs_gl)]


def checked(task: Task) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_task(task, pairs=3)}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_property_holds(task: Task) -> None:
    found = checked(task)
    assert [finding for finding in found.values() if not finding.holds] == []
    assert "ceiling" not in found


def test_what_is_not_restored_is_found() -> None:
    """The pendulum draws the torque it was last given, which is no part of its physics."""
    found = checked(FORGETFUL)
    assert [name for name, finding in found.items() if not finding.holds] == ["save and restore"]
    assert "pixels differ, states by up to 0" in found["save and restore"].measured


@pytest.mark.parametrize(
    ("task", "kind"),
    [(PENDULUM, AttributeMemory), (CAR, ReplayMemory), pytest.param(POLE, MujocoMemory, marks=needs_gl)],
    ids=["pendulum", "hill-car", "pole"],
)
def test_a_restored_environment_does_what_an_undisturbed_one_does(task: Task, kind: type) -> None:
    """Against a second environment that is stepped by Gymnasium alone."""
    actions = np.random.default_rng(0).uniform(task.action.low, task.action.high, (8, 1)).astype(np.float32)
    with contextlib.closing(task.open()) as simulation:
        assert isinstance(simulation, GymnasiumSimulation) and isinstance(simulation._memory, kind)
        undisturbed: Any = gymnasium.make(task.description, render_mode="rgb_array").unwrapped
        undisturbed.reset(seed=0)
        for action in actions[:4]:
            simulation.step(action)
        saved = simulation.save()
        simulation.step(-actions[0])
        simulation.restore(saved)
        for action in actions[4:]:
            simulation.step(action)
        for action in actions:
            undisturbed.step(action)
            undisturbed.step(action)
        wanted = simulation._state(undisturbed)
        np.testing.assert_array_equal(simulation.state(), np.asarray(wanted, np.float32))
        undisturbed.close()


def test_frames_are_the_middle_of_the_rendered_picture_averaged() -> None:
    class Stripes(gymnasium.Env[Any, Any]):
        render_mode = "rgb_array"
        count = 1

        def reset(self, **kwargs: Any) -> Any:
            return 0, {}

        def step(self, action: Any) -> Any:
            return 0, 0.0, False, False, {}

        def render(self) -> Any:
            columns = np.arange(160)
            row = np.where((columns < 16) | (columns >= 144), 255, 100 + 50 * (columns % 2))
            return np.broadcast_to(row[None, :, None], (96, 160, 3)).astype(np.uint8)

    simulation = GymnasiumSimulation(Stripes, CAMERA, lambda env: [0.0], attributes=("count",))
    frame = simulation.frame()
    assert frame.shape == (48, 64, 3)
    assert (frame == 125).all()  # 96 x 128 of the middle: no white, the stripes averaged over 2 x 2


def test_other_environments_are_refused_in_one_line() -> None:
    silent = lambda: gymnasium.make("Pendulum-v1")  # noqa: E731
    with pytest.raises(UserError, match="PendulumEnv: make it with render_mode='rgb_array'"):
        GymnasiumSimulation(silent, CAMERA, lambda env: env.state)
    shown = lambda: gymnasium.make("Pendulum-v1", render_mode="rgb_array")  # noqa: E731
    with pytest.raises(UserError, match="PendulumEnv has no attribute 'angle' to save"):
        GymnasiumSimulation(shown, CAMERA, lambda env: env.state, attributes=("angle",))


def test_a_task_without_expert_and_captions_is_collected_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sims.core.collect.get_task", lambda name: PENDULUM)
    store = EpisodeStore(collect("pendulum", 6, 0, tmp_path / "data", workers=1, progress=False))
    assert store.info.settings["renderer"] == "gymnasium"
    assert store.info.labels == () and not any(any(e.captions) for e in store.episodes)
    with contextlib.closing(PENDULUM.open()) as simulation:
        again = record(PENDULUM, simulation, store.episodes[0].seed, 0)
    np.testing.assert_array_equal(again.frames, store.episodes[0].frames)


def test_its_goals_lie_where_the_data_policy_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(PENDULUM.open()) as simulation:
        pairs = make_pairs(PENDULUM, simulation, "dev", 0, 3, "image", progress=False)
        assert all(PENDULUM.distance(p.start_state, p.goal_state) >= PENDULUM.min_goal_distance for p in pairs)
        with pytest.raises(UserError, match="has no 'place'\\); give image goals"):
            make_pairs(PENDULUM, simulation, "dev", 0, 1, "label", progress=False)
        assert to_go(PENDULUM, simulation, pairs).by == "distance"
        assert ceilings(PENDULUM) == []
        manifest = make_manifest(PENDULUM, simulation, {"dev": 3, "test": 1}, progress=False)
        assert manifest.ceiling == {} and manifest.floor
        assert write_manifest(manifest, folder_of(PENDULUM)) == Path("manifests/pendulum.json")
        assert check_pairs(PENDULUM, pairs, "dev", 0, "image", None) == "as in the manifest (3 compared)"
