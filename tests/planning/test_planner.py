from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.cem import Found
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from tests import toy


@pytest.fixture(scope="module")
def planner(toy_run: Path) -> WorldModelPlanner:
    return load_planner(toy_run / "action")


def query(seed: int = 0, **more: object) -> PlanQuery:
    frames = np.stack([toy.picture(8 + seed, 10), toy.picture(9 + seed, 10)])
    values = {"frames": frames, "goal": ImageGoal(toy.picture(24, 24)), "seed": seed, **more}
    return PlanQuery(**values)  # type: ignore[arg-type]


def test_the_card_says_what_the_model_is(planner: WorldModelPlanner) -> None:
    card = planner.card
    assert card.phases == ("pretrain", "language", "probe", "action")
    assert set(card.goals) == {"image", "text", "label", "latent"}
    assert card.labels == toy.LABELS
    assert card.history == 2  # the encoder looks back one frame, the dynamics another
    assert card.state_shape == (4, 8)
    assert card.camera == toy.CAMERA
    assert (card.name, card.task) == ("toy", "toy")  # the preset, and what the episodes are of
    assert card.action.std is not None


def test_a_plan_stays_inside_the_bounds_and_says_what_it_expects(planner: WorldModelPlanner) -> None:
    [result] = planner.plan([query()])
    assert result.actions.shape == (4, 7)
    assert (np.abs(result.actions[:, :2]) <= 3).all()
    assert (result.actions[:, 2:] == 0).all()
    assert result.energies.shape == (4,)
    assert set(result.timing_ms) == {"encode", "plan"}


def test_no_number_of_a_plan_is_beyond_its_bound_in_any_precision(toy_run: Path) -> None:
    """float32 0.05 is more than 0.05: a controller that compares the sent numbers with its limits must not refuse."""
    checkpoint = load_checkpoint(toy_run / "action")
    for bound in (0.05, 0.1, 1 / 3, 0.7):
        change = {"low": (-bound,) * 7, "high": (bound,) * 7}
        spec = checkpoint.model.robot.action.model_copy(update=change)
        checkpoint.model.robot = checkpoint.model.robot.model_copy(update={"action": spec})
        actions = [a for seed in range(3) for a in WorldModelPlanner(checkpoint).plan([query(seed)])[0].actions.ravel()]
        assert max(float(a) for a in actions) <= bound and min(float(a) for a in actions) >= -bound
        assert max(float(a) for a in actions) > 0.99 * bound


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_the_reported_energies_are_those_of_imagining_the_reported_actions(exponent: float, toy_run: Path) -> None:
    """An independent walk: normalise the frames and the actions by hand, step the dynamics, measure the distances."""
    checkpoint = toy.with_plan(load_checkpoint(toy_run / "action"), step_weight_exponent=exponent)
    model, spec = checkpoint.model, checkpoint.model.robot.action
    asked = replace(query(), previous_actions=np.array([[2, -1, 0, 0, 0, 0, 0]] * 4, np.float32))
    assert asked.previous_actions is not None
    [result] = WorldModelPlanner(checkpoint).plan([asked])
    assert isinstance(asked.goal, ImageGoal)
    plan, steps = model.config.plan, model.world_model.temporal_distance
    phi = lambda states: steps.mlp((states - steps.whitening.mean) @ steps.whitening.matrix.T)  # noqa: E731
    assert plan.latent > 0 and plan.temporal_distance > 0
    with torch.no_grad():
        video = torch.from_numpy(asked.frames[None]).float() / 127.5 - 1
        states = model.states(video)[0]
        prev_state, state = states[:, max(0, states.shape[1] - 2)], states[:, -1]
        goal = model.states(torch.from_numpy(asked.goal.frame[None, None]).float() / 127.5 - 1)[0][:, 0]

        def expected(state: torch.Tensor) -> float:
            apart = (phi(state.flatten(1)) - phi(goal.flatten(1))).square().sum().sqrt()
            return float(plan.latent * (state - goal).abs().mean() + plan.temporal_distance * apart)

        assert result.energy_now == pytest.approx(expected(state), rel=1e-4)
        normalise = lambda action: (torch.tensor(action[:2]) - torch.tensor(spec.mean)) / torch.tensor(spec.std)  # noqa: E731
        prev_action = normalise(asked.previous_actions[0])[None]
        for action, reported in zip(result.actions, result.energies, strict=True):
            normal = normalise(action)[None]
            state, prev_state, prev_action = (
                model.world_model.dynamics(state, prev_state, prev_action, normal),
                state,
                normal,
            )
            assert expected(state) == pytest.approx(float(reported), rel=1e-3)


def test_the_same_seed_gives_the_same_plan_alone_or_in_company(planner: WorldModelPlanner) -> None:
    alone = planner.plan([query(1)])[0]
    together = planner.plan([query(0), query(1), query(2, goal=TextGoal("go left")), query(3)])
    np.testing.assert_allclose(together[1].actions, alone.actions, atol=1e-4)
    again = planner.plan([query(1)])[0]
    assert np.array_equal(alone.actions, again.actions)


@pytest.mark.parametrize(
    "goal", [TextGoal("the square is at the left"), LabelGoal(("left",)), LatentGoal(np.zeros((4, 8), np.float32))]
)
def test_goals_of_every_kind_are_planned_for(planner: WorldModelPlanner, goal: object) -> None:
    [result] = planner.plan([query(goal=goal)])
    assert np.isfinite(result.actions).all() and np.isfinite(result.energies).all()


def test_a_stored_state_is_a_goal_like_the_picture_it_came_from(planner: WorldModelPlanner) -> None:
    picture = toy.picture(24, 24)
    [there] = planner.plan([query(frames=picture[None])])
    by_picture = planner.plan([query(goal=ImageGoal(picture))])[0]
    by_state = planner.plan([query(goal=LatentGoal(there.state))])[0]
    np.testing.assert_allclose(by_state.actions, by_picture.actions, atol=1e-4)


def test_at_the_goal_it_says_so_and_holds_still(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    sure = WorldModelPlanner(
        replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": 1e-3}))
    )
    frame = toy.picture(20, 12)
    [result] = sure.plan([query(frames=frame[None], goal=ImageGoal(frame))])
    assert result.reached and (result.actions == 0).all()
    [away] = sure.plan([query(frames=frame[None], goal=ImageGoal(toy.picture(8, 25)))])
    assert not away.reached


def test_who_is_at_the_goal_is_not_searched_for_and_those_beside_it_plan_as_alone(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    certain = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": 1e-3}))
    sure = WorldModelPlanner(certain)
    frame = toy.picture(20, 12)
    there, away = query(frames=frame[None], goal=ImageGoal(frame)), query(1)
    alone = sure.plan([away])[0]
    mixed = sure.plan([there, away, there])
    assert [r.reached for r in mixed] == [True, False, True]
    assert [r.iterations for r in mixed] == [0, alone.iterations, 0] and alone.iterations
    np.testing.assert_allclose(mixed[1].actions, alone.actions, atol=1e-5)
    with torch.no_grad():  # the energies are those of holding still, imagined step by step
        state = prev_state = torch.from_numpy(mixed[0].state)[None]
        still = (torch.zeros(1, 2) - sure.actions._mean) / sure.actions._std
        for energy in mixed[0].energies:
            state, prev_state = checkpoint.model.world_model.dynamics(state, prev_state, still, still), state
            objective = sure._objective([there.goal], torch.zeros(1, 4, dtype=torch.bool))
            assert float(objective(state[:, None], prev_state[:, None])) == pytest.approx(float(energy), abs=1e-5)

    def fail(*_: object) -> Found:
        raise AssertionError("searched")

    idle = WorldModelPlanner(certain, fail)  # type: ignore[arg-type]
    np.testing.assert_array_equal(idle.plan([there])[0].actions, mixed[0].actions)
    with pytest.raises(AssertionError, match="searched"):
        idle.plan([away])


def test_a_stored_state_is_reached_where_it_was_taken(planner: WorldModelPlanner) -> None:
    frame = toy.picture(20, 12)[None]
    [there] = planner.plan([query(frames=frame)])
    [again] = planner.plan([query(frames=frame, goal=LatentGoal(there.state))])
    assert again.energy_now == pytest.approx(0.0, abs=1e-5)


def test_a_command_is_held_and_a_change_is_not(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    spec = checkpoint.model.robot.action.model_copy(update={"absolute": (1,)})
    checkpoint.model.robot = checkpoint.model.robot.model_copy(update={"action": spec})
    sure = WorldModelPlanner(
        replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": 1.0}))
    )
    frame, previous = toy.picture(20, 12), np.full((4, 7), 1.5, np.float32)
    [held] = sure.plan([query(frames=frame[None], goal=ImageGoal(frame), previous_actions=previous)])
    assert held.reached
    assert (held.actions[:, 0] == 0).all()
    np.testing.assert_allclose(held.actions[:, 1], 1.5, rtol=1e-6)


def test_labels_are_reached_when_every_one_of_them_is_likely() -> None:
    from hnet_vjepa.planning.goals.label import LabelObjective

    logits = torch.tensor([[2.2, -0.85], [2.2, 0.1], [-3.0, 5.0]])[:, None]  # p = 0.9 and 0.3; both likely; one not
    objective = LabelObjective(lambda read: logits[:, 0], torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]]))
    states = torch.zeros(3, 1, 4, 8)
    assert objective.reached(states, states)[:, 0].tolist() == [False, True, True]


def test_a_previous_plan_is_moved_on_by_one_step(planner: WorldModelPlanner) -> None:
    previous = np.zeros((4, 7), np.float32)
    previous[:, 0] = [-3, 1.5, 3, -1.5]
    mean = planner.actions.first_mean(query(previous_actions=previous), 4)
    torch.testing.assert_close(mean[:, 0], torch.tensor([0.5, 1.0, -0.5, 0.0]))
    assert planner.actions.first_mean(query(), 2).abs().max() < 1e-6


def test_a_dimension_of_no_width_stays_fixed(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    spec = checkpoint.model.robot.action.model_copy(
        update={"low": (2.0, -3.0, 0, 0, 0, 0, 0), "high": (2.0, 3.0, 0, 0, 0, 0, 0)}
    )
    checkpoint.model.robot = checkpoint.model.robot.model_copy(update={"action": spec})
    [result] = WorldModelPlanner(checkpoint).plan([query()])
    assert (result.actions[:, 0] == 2.0).all()
    assert (np.abs(result.actions[:, 1]) <= 3).all() and result.actions[:, 1].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": np.zeros((1, 16, 16, 3), np.uint8)}, "this camera gives 32 x 40 x 3"),
        ({"frames": np.zeros((0, *toy.SHAPE), np.uint8)}, "T at least 1"),
        ({"frames": np.zeros((1, 32, 32, 3), np.float32)}, "type uint8"),
        ({"goal": ImageGoal(np.zeros((8, 8, 3), np.uint8))}, "goal.image"),
        ({"goal": TextGoal("  ")}, "goal.text: is empty"),
        ({"goal": TextGoal("?!")}, "goal.text: is empty"),
        ({"previous_actions": np.zeros(7, np.float32)}, "expected H x 7"),
        ({"goal": LabelGoal(("up",))}, "unknown label 'up'; choose one of: left, right"),
        ({"goal": LabelGoal(())}, "goal.labels: is empty"),
        ({"goal": LabelGoal("left")}, "goal.labels: is one string"),
        ({"goal": LatentGoal(np.zeros((4, 7), np.float32))}, "expected 4 x 8 finite numbers"),
        ({"goal": LatentGoal(np.full((4, 8), np.nan, np.float32))}, "expected 4 x 8 finite numbers"),
        ({"goal": LatentGoal(np.full((4, 8), 3e38, np.float32))}, "expected 4 x 8 finite numbers, none beyond 1e"),
        ({"previous_actions": np.zeros((4, 6), np.float32)}, "an action has 6 numbers; this robot takes 7"),
        ({"previous_actions": np.full((4, 7), np.nan, np.float32)}, "NaN"),
        ({"search": SearchSettings(8, 3, 0, 4)}, "search.horizon = 0"),
        ({"search": SearchSettings(8, 3, 2, 9)}, "search.elites = 9 exceeds search.candidates = 8"),
    ],
)
def test_bad_queries_are_refused_by_name(planner: WorldModelPlanner, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", "\\(")):
        planner.plan([query(**change)])


@pytest.mark.slow
def test_goals_whose_phase_was_not_trained_are_refused(toy_store: Path, tmp_path: Path) -> None:
    from hnet_vjepa.pipeline import run_pipeline

    run_pipeline(toy.config(), toy_store, tmp_path, ("action",), progress=False)
    planner = load_planner(tmp_path / "action")
    assert planner.card.goals == ("image", "latent")
    with pytest.raises(UserError, match="takes no text goals"):
        planner.check(query(goal=TextGoal("go left")))


def test_a_checkpoint_without_dynamics_cannot_plan(toy_run: Path) -> None:
    with pytest.raises(UserError, match="planning needs the phase 'action'"):
        load_planner(toy_run / "probe")
