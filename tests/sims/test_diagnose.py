"""The diagnosis on a robot and a model that are known exactly: it must name the one link that was broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import cli.main
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.inspect import StateBatch
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import Placement
from sims.core.registry import TASKS
from sims.core.seeds import domain_of
from sims.core.task import State, Task
from sims.core.variation import Variation
from sims.diagnosis.measure import Diagnosis, diagnose
from sims.diagnosis.text import OUTCOMES, as_text, to_json
from sims.diagnosis.to_go import steps_to_go
from sims.diagnosis.verdicts import verdicts, weakest
from sims.reporting import plots

HORIZON = 3


class Point:
    """A point that an action moves by up to 0.1 in each direction. Its picture is two numbers, written as colours."""

    def __init__(self) -> None:
        self.place = np.zeros(2)

    def reset(self) -> None:
        self.place = np.full(2, 0.5)

    def step(self, action: NDArray[np.float32]) -> None:
        self.place = np.clip(self.place + np.clip(action[:2], -0.1, 0.1), 0, 1)

    def frame(self) -> NDArray[np.uint8]:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., :2] = np.round(255 * self.place)
        return picture

    def state(self) -> State:
        return self.place.astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        return self.place.copy()

    def restore(self, saved: NDArray[np.float64]) -> None:
        self.place = saved.copy()

    def vary(self, variation: Variation) -> None:
        """Nothing to vary."""

    def close(self) -> None:
        """Nothing is held."""


def wander(rng: np.random.Generator) -> object:
    return lambda _: rng.uniform(-0.1, 0.1, 7).astype(np.float32)


def go(goal: State) -> object:
    return lambda state: np.concatenate([goal - state, np.zeros(5)]).astype(np.float32)


TASK = Task(
    name="point",
    description="a point",
    licence="ours",
    action=ActionSpec(low=(-0.1, -0.1, 0, 0, 0, 0, 0), high=(0.1, 0.1, 0, 0, 0, 0, 0), active=(0, 1)),
    camera=CameraSpec(height=8, width=8, dt=0.1),
    states=("x [m]", "y [m]"),
    open=Point,
    data_policy=wander,  # type: ignore[arg-type]
    sample_goal=lambda rng: rng.uniform(0, 1, 2).astype(np.float32),
    controller=go,  # type: ignore[arg-type]
    distance=lambda a, b: float(np.linalg.norm(a - b)),
    place=lambda state: Placement(float(state[0]), float(state[1]), 0.0),
    min_goal_distance=0.35,
)


class Exact:
    """A model that sees, imagines, judges and proposes without error, unless one of these is broken."""

    window = 2

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.rng = np.random.default_rng(0)
        card = SimpleNamespace(search=SimpleNamespace(horizon=HORIZON))
        self.planner = SimpleNamespace(card=card, plan=self.plan, first_candidates=self.first_candidates)

    def see(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        places = pictures[:, 0, 0, :2] / 255
        if self.broken == "representation":
            places = self.rng.uniform(0, 1, places.shape)
        return torch.from_numpy(places)[:, None]

    def seen(self, states: torch.Tensor) -> StateBatch:
        return StateBatch(states, states, torch.zeros(len(states), 2), torch.zeros(states.shape[:2], dtype=torch.bool))

    def episode(self, frames: NDArray[np.uint8], actions: NDArray[np.float32]) -> StateBatch:
        return self.seen(self.see(frames))

    def last(self, clips: NDArray[np.uint8]) -> StateBatch:
        return self.seen(self.see(clips[:, -1]))

    def rollout(self, start: StateBatch, actions: NDArray[np.float32]) -> list[StateBatch]:
        moves = torch.from_numpy(actions[..., :2]).double().clamp(-0.1, 0.1).cumsum(1)
        if self.broken == "dynamics":
            moves = -moves
        return [self.seen((start.states + moves[:, h, None]).clamp(0, 1)) for h in range(actions.shape[1])]

    def energy(self, seen: StateBatch, goal: StateBatch) -> NDArray[np.float64]:
        if self.broken == "energy":
            return self.rng.uniform(0, 1, len(seen))
        return (seen.states - goal.states).norm(dim=(1, 2)).numpy()

    def cost(self, energies: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.sum(energies, 0)

    def first_candidates(self, query: PlanQuery, count: int, horizon: int) -> NDArray[np.float32]:
        actions = np.random.default_rng(query.seed).uniform(-0.1, 0.1, (count, horizon, 7)).astype(np.float32)
        return actions * np.float32(self.broken != "policy prior")

    def plan(self, queries: list[PlanQuery]) -> list[SimpleNamespace]:
        [query] = queries
        here, there = query.frames[-1, 0, 0, :2] / 255, query.goal.frame[0, 0, :2] / 255  # type: ignore[union-attr]
        step = (there - here) / HORIZON * (self.broken not in ("search", "policy prior"))
        actions = np.zeros((HORIZON, 7), np.float32)
        actions[:, :2] = step
        return [SimpleNamespace(actions=actions)]


def found(broken: str = "", task: Task = TASK) -> Diagnosis:
    return diagnose(task, Point(), Exact(broken), episodes=8, pairs=6, candidates=24, progress=False)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sound() -> Diagnosis:
    return found()


def test_a_model_without_error_has_no_weak_link(sound: Diagnosis) -> None:
    assert all(verdict.sound for verdict in verdicts(sound).values())
    assert weakest(sound).startswith("no link is weak")
    probe, rollout = sound.probe, sound.rollout
    assert (probe.fitted, probe.held_out) == (6, 2)
    assert probe.error < 0.003 < 0.1 < probe.mean_error  # a 255th of the way per number
    assert set(probe.r2) == {"x [m]", "y [m]"} and min(probe.r2.values()) > 0.99
    assert len(rollout.imagined) == len(rollout.observed) == len(rollout.nothing_moves) == 10
    assert max(rollout.imagined) < 0.01
    assert 0.03 < rollout.nothing_moves[0] < 0.13 < rollout.nothing_moves[-1]  # a step is up to 0.1 each way
    real, imagined = sound.ranks()
    assert real is not None and imagined is not None
    # The energy is the distance; steps to go follow the slower axis, so that the ranks agree well but not fully.
    assert 0.85 < real.median < 0.98 and 0.85 < imagined.median < 0.98
    for tried in sound.outcomes:
        assert tried.start > 1
        assert tried.best <= min(tried.picked, tried.typical)
        assert tried.planned <= tried.best + 0.01
    assert sound.progress_of("planned") > sound.progress_of("best") > sound.progress_of("typical")


@pytest.mark.parametrize("link", ["representation", "energy", "dynamics", "policy prior", "search"])
def test_the_broken_link_is_named(link: str, sound: Diagnosis) -> None:
    broken = found(link)
    assert weakest(broken).startswith(f"weakest link: {link} (")
    judged = [verdict.link for verdict in verdicts(broken).values() if not verdict.sound]
    assert judged[0] == link
    if link == "policy prior":  # they hold still: nothing is ranked, nothing comes nearer
        assert broken.ranks() == (None, None)
        assert all(tried.best == tried.start for tried in broken.outcomes)


def test_the_same_seeds_give_the_same_diagnosis_and_none_of_them_is_a_test_seed(
    sound: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sims.diagnosis import measure as module
    from sims.evaluation import pairs as protocol

    used: list[int] = []
    for place in (module, protocol):
        original = place.episode_seed
        monkeypatch.setattr(place, "episode_seed", lambda *a, f=original: used.append(f(*a)) or used[-1])
    assert found() == sound
    assert {domain_of(seed) for seed in used} == {"dev"}
    assert len(set(used)) == len(used) == 8 + 6  # no episode starts where a pair starts


def test_steps_to_go_of_a_controller_of_known_speed() -> None:
    """Each step of the point is 0.1 along the slower axis; the last step begins at the tolerance of 0.05."""
    point = Point()
    pair = SimpleNamespace(goal_state=np.float32([0.9, 0.5]))
    for x, expected in ((0.9, 0.0), (0.88, 0.4), (0.85, 1.0), (0.8, 1.5), (0.7, 2.5), (0.35, 6.0), (0.0, 7.0)):
        point.restore(np.array([x, 0.5]))
        assert steps_to_go(TASK, point, pair, 7) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]


def test_without_a_controller_that_solves_the_pairs_distance_is_straight() -> None:
    diagnosis = found(task=replace(TASK, evaluation_steps=1))
    assert diagnosis.progress == "distance" and diagnosis.progress_unit == "m"
    for pair in diagnosis.outcomes:
        assert TASK.min_goal_distance <= pair.start <= 2**0.5
    by_observed, by_imagined = diagnosis.ranks()
    assert by_observed is not None and by_observed.median > 0.98 and by_imagined is not None
    assert by_imagined.median > 0.98
    text = as_text(diagnosis)
    assert "straight distance [cm]" in text and "the scripted controller does not solve these pairs" in text


class Ring(Point):
    """A point on a ring that is open between 300 and 360 degrees: from end to end the way leads all around."""

    SPAN = np.deg2rad(300)

    def __init__(self) -> None:
        self.angle = 0.0

    def reset(self) -> None:
        self.angle = 0.0

    def step(self, action: NDArray[np.float32]) -> None:
        self.angle = float(np.clip(self.angle + 2 * np.clip(action[0], -0.1, 0.1), 0, self.SPAN))

    @property
    def place(self) -> NDArray[np.float64]:  # type: ignore[override]
        return on_ring(np.array(self.angle))

    def save(self) -> NDArray[np.float64]:
        return np.array([self.angle])

    def restore(self, saved: NDArray[np.float64]) -> None:
        self.angle = float(saved[0])


def on_ring(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)


def angle_of(place: NDArray[np.float64] | State) -> NDArray[np.float64]:
    angle = np.arctan2(place[..., 1] - 0.5, place[..., 0] - 0.5) % (2 * np.pi)
    return np.where(angle > np.deg2rad(330), 0.0, angle)  # rounding may put the start below zero


def ends(rng: np.random.Generator) -> State:
    return on_ring(np.array(rng.choice([0.1, Ring.SPAN - 0.1]))).astype(np.float32)


def around(goal: State) -> object:
    return lambda state: np.float32([(angle_of(goal) - angle_of(state)) / 2, 0, 0, 0, 0, 0, 0])


RING = replace(
    TASK,
    open=Ring,
    sample_goal=ends,
    controller=around,  # type: ignore[arg-type]
    settle_steps=30,
    evaluation_steps=30,
    min_goal_distance=0.3,
)


class ExactRing(Exact):
    """The exact model of the ring, whose energy is the length of the way along it."""

    def rollout(self, start: StateBatch, actions: NDArray[np.float32]) -> list[StateBatch]:
        angles = angle_of(start.states[:, 0].numpy())[:, None] + 2 * actions[..., 0].clip(-0.1, 0.1).cumsum(1)
        places = torch.from_numpy(on_ring(angles.clip(0, Ring.SPAN)))  # N x H x 2
        return [self.seen(places[:, h, None]) for h in range(actions.shape[1])]

    def energy(self, seen: StateBatch, goal: StateBatch) -> NDArray[np.float64]:
        return np.abs(angle_of(seen.states[:, 0].numpy()) - angle_of(goal.states[:, 0].numpy()))

    def plan(self, queries: list[PlanQuery]) -> list[SimpleNamespace]:
        [query] = queries
        here, there = (angle_of(f[0, 0, :2] / 255) for f in (query.frames[-1], query.goal.frame))  # type: ignore[union-attr]
        actions = np.zeros((HORIZON, 7), np.float32)
        actions[:, 0] = 0.1 * np.sign(there - here)
        return [SimpleNamespace(actions=actions)]


def test_where_the_way_is_a_detour_progress_is_counted_in_steps() -> None:
    """From one end of the ring to the other, the first steps lead away from the goal in straight distance."""
    measured = lambda task: diagnose(task, Ring(), ExactRing(), episodes=8, pairs=6, candidates=24, progress=False)  # type: ignore[arg-type] # noqa: E731
    by_steps, straight = measured(RING), measured(replace(RING, evaluation_steps=3))
    assert by_steps.progress == "steps" and straight.progress == "distance"
    assert all(20 < outcome.start < 30 for outcome in by_steps.outcomes)  # (300 - 2 x 6) degrees at 11.5 a step
    assert weakest(by_steps).startswith("no link is weak"), as_text(by_steps)
    weak = [verdict.link for verdict in verdicts(straight).values() if not verdict.sound]
    assert "energy" in weak and "(straight distance)" in verdicts(straight)["c"].reason
    assert by_steps.progress_of("planned") > 0.1 > 0 > straight.progress_of("planned")


def test_imagination_is_judged_where_something_moves() -> None:
    """A robot that rests for most of the time: that nothing moves is right then, and would be hard to beat."""

    def lazy(rng: np.random.Generator) -> object:
        actions = [np.zeros(7, np.float32)] * 22 + [np.float32([0.05 * s, 0.05, 0, 0, 0, 0, 0]) for s in (1, -1)] * 2
        return lambda _: actions.pop(0) if actions else np.zeros(7, np.float32)

    still = replace(TASK, data_policy=lazy, collect_frames=40, tolerances=(0.1,))  # type: ignore[arg-type]
    rollout = found(task=still).rollout
    assert rollout.nothing_moves[-1] > 0.1 and max(rollout.imagined) < 0.01
    nothing = replace(TASK, data_policy=lambda _: lambda _: np.zeros(7, np.float32))  # type: ignore[arg-type]
    assert max(found(task=nothing).rollout.nothing_moves) == 0  # all starts count where none will do


def test_what_nobody_cares_for_is_not_ranked() -> None:
    """An object that only trembles is where it was: half a per cent of the tolerance is no difference."""
    trembling = replace(TASK, distance=lambda a, b: 0.3 + 2e-4 * float(np.linalg.norm(a - b)), tolerances=(0.1,))
    assert found(task=replace(trembling, min_goal_distance=0.0)).ranks() == (None, None)


def test_text_json_and_plot(sound: Diagnosis) -> None:
    for diagnosis in (sound, found("policy prior"), found(task=replace(TASK, unit="share"))):
        value = json.loads(json.dumps(to_json(diagnosis), allow_nan=False))
        assert value["conclusion"] == weakest(diagnosis)
        assert len(value["outcomes"]) == 6 and len(value["verdicts"]) == 5
        assert plots.diagnosis(diagnosis, OUTCOMES).startswith(b"\x89PNG")
        text = as_text(diagnosis)
        assert text.splitlines()[-1] == weakest(diagnosis)
        assert text.count("=> ") == 5
    assert "steps to go [steps]" in as_text(sound) and "straight" not in as_text(sound)
    assert "=> policy prior: WEAK, in 0 % of the pairs" in as_text(found("policy prior"))


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="episodes is 3; the linear probe needs at least 4"):
        diagnose(TASK, Point(), Exact(), episodes=3, progress=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="candidates is 1"):
        diagnose(TASK, Point(), Exact(), candidates=1, progress=False)  # type: ignore[arg-type]


def test_command(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is hardly trained, of a robot that looks like the point: everything is written, little is sound."""
    from hnet_vjepa.checkpoint import read_manifest

    class Square(Point):
        def frame(self) -> NDArray[np.uint8]:
            from tests import toy

            return toy.picture(*(4 + 24 * self.place))

    from tests import toy

    task = replace(TASK, open=Square, camera=toy.CAMERA, action=toy.SPEC)
    monkeypatch.setitem(TASKS, "point", task)
    words = ["diagnose", "--task", "point", "--checkpoint", str(toy_run / "action"), "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.main.app, [*words, "--pairs", "2", "--candidates", "8", "--episodes", "4"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["diagnosis.json", "diagnosis.png", "diagnosis.txt"]
    assert (tmp_path / "diagnosis.txt").read_text().strip() in done.output
    assert "weakest link: " in done.output
    assert read_manifest(toy_run / "action").trained()[-1] == "action"
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert content["horizon"] == 4 and "changed settings" not in content["conditions"]
    changed = [*words, "--pairs", "1", "--candidates", "8", "--episodes", "4", "--set", "plan.horizon=2"]
    assert CliRunner().invoke(cli.main.app, changed).exit_code == 0
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert content["horizon"] == 2 and content["conditions"]["changed settings"] == "plan.horizon=2"
    done = CliRunner().invoke(cli.main.app, ["diagnose", *words[3:5], "--task", "fetch-reach"])
    assert "32 x 40 pictures; fetch-reach gives 64 x 64" in str(done.exception)
    done = CliRunner().invoke(cli.main.app, [*words[:3], "--checkpoint", str(toy_run / "pretrain")])
    assert "planning needs the phase 'action'" in str(done.exception)
