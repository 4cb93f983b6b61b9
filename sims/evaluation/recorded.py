"""Evaluation of a checkpoint on held-out recorded episodes, for robots without a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.data.store import Episode, EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.inspect import Inspector
from hnet_vjepa.trainers.action_posttrain import open_loop_error
from sims.evaluation.pairs import refuse_evaluation_data
from sims.evaluation.statistics import Estimate, bootstrap_median, spearman
from sims.evaluation.units import columns


@dataclass(frozen=True)
class ActionError:
    """Error of the inverse dynamics in one dimension of the action."""

    name: str
    unit: str
    r2: float | None  # 1: exact; 0: as good as always the training mean; None when it never changes
    error: float  # mean absolute, in the robot's units
    mean_error: float  # the same of 'always the mean of training'


@dataclass(frozen=True)
class RecordedResult:
    """Errors of a checkpoint on held-out recordings.

    ``open_loop``: errors of rollouts and of 'nothing moves' by step (see open_loop_error). ``time_to_goal``: rank
    correlation, within an episode, of the energy of its frames with the last frame as the goal, and the steps left;
    median over the episodes.
    """

    data: str
    trained_on_it: bool  # on its other episodes
    episodes: int
    open_loop: dict[str, float]
    actions: tuple[ActionError, ...]
    time_to_goal: Estimate | None


def open_recordings(path: Path, checkpoint: Checkpoint) -> EpisodeStore:
    """Open a store with the episodes held out that the checkpoint's configuration holds out.

    Raises UserError when there is none of them, or the recordings are of another camera or robot.
    """
    for phase in checkpoint.manifest.phases:
        refuse_evaluation_data(phase.data_settings, f"{checkpoint.path}, phase {phase.phase},")
    data, robot = checkpoint.model.config.data, checkpoint.model.robot
    store = EpisodeStore(path, data.folds, data.held_out_fold)
    camera, action = store.info.camera, store.info.action
    if (camera.height, camera.width) != (robot.camera.height, robot.camera.width):
        raise UserError(
            f"the model was trained on {robot.camera.height} x {robot.camera.width} pictures; "
            f"{path} has {camera.height} x {camera.width}"
        )
    if (action.names, action.active) != (robot.action.names, robot.action.active):
        raise UserError(
            f"the model was trained on the actions {robot.action.active} of {', '.join(robot.action.names)}; "
            f"{path} has {action.active} of {', '.join(action.names)}"
        )
    if not store.split("held_out"):
        raise UserError(
            f"{path}: none of its {len(store.episodes)} episodes is held out (every {data.folds}th, "
            f"from number {data.held_out_fold}); record more"
        )
    return store


def score(checkpoint: Checkpoint, store: EpisodeStore) -> RecordedResult:
    """Measure a checkpoint on the held-out episodes of a store (see open_recordings)."""
    inspector = Inspector(checkpoint)
    episodes = store.split("held_out")
    fingerprint = store.fingerprint()
    return RecordedResult(
        data=str(store.path),
        trained_on_it=any(phase.data_fingerprint == fingerprint for phase in checkpoint.manifest.phases),
        episodes=len(episodes),
        open_loop=open_loop_error(checkpoint.model, store),
        actions=_action_errors(inspector, checkpoint, episodes),
        time_to_goal=bootstrap_median([time_to_goal(inspector, episode) for episode in episodes]),
    )


def time_to_goal(inspector: Inspector, episode: Episode) -> float:
    """Spearman's correlation over an episode's frames: energy with the last frame as the goal, and steps left."""
    goal = inspector.last(episode.frames[None, -1:])
    energies = inspector.energy(inspector.episode(episode.frames, episode.actions)[:-1], goal)
    return spearman(energies, np.arange(len(energies), 0, -1.0))


def _action_errors(
    inspector: Inspector, checkpoint: Checkpoint, episodes: Sequence[Episode]
) -> tuple[ActionError, ...]:
    spec = checkpoint.model.robot.action
    estimated = np.concatenate([inspector.prev_action(inspector.episode(e.frames, e.actions)[1:]) for e in episodes])
    done = np.concatenate([e.actions for e in episodes])[:, list(spec.active)].astype(np.float64)
    assert spec.mean is not None
    error, baseline = estimated - done, np.array(spec.mean) - done
    return tuple(
        ActionError(
            name=spec.names[d],
            unit=spec.units[d],
            r2=float(1 - (error[:, i] ** 2).mean() / (baseline[:, i] ** 2).mean()) if done[:, i].std() > 0 else None,
            error=float(np.abs(error[:, i]).mean()),
            mean_error=float(np.abs(baseline[:, i]).mean()),
        )
        for i, d in enumerate(spec.active)
    )


def to_json(result: RecordedResult) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {"format": 1, **asdict(result)}


def as_text(result: RecordedResult) -> str:
    """Return the tables of a result for a terminal."""
    known = "its other episodes were used for training" if result.trained_on_it else "none of it was used for training"
    measured = result.open_loop
    steps = [h for h in range(1, 1000) if f"open_loop/{h}" in measured]
    in_cm = "open_loop_cm/1" in measured
    ahead = [["steps ahead", "error", "nothing moves", *(("error [cm]", "nothing moves [cm]") if in_cm else ())]]
    for h in steps:
        keys = [f"open_loop/{h}", f"nothing_moves/{h}"]
        keys += [f"open_loop_cm/{h}", f"nothing_moves_cm/{h}"] if in_cm else []
        ahead.append([str(h), *(f"{measured[key]:.3g}" for key in keys)])
    inverse = [["action", "R2", "mean error", "always the mean", "unit"]]
    for a in result.actions:
        r2 = "-" if a.r2 is None else f"{a.r2:.3f}"
        inverse.append([a.name, r2, f"{a.error:.3g}", f"{a.mean_error:.3g}", a.unit])
    lines = [f"{result.data}: {result.episodes} held-out episodes ({known})", ""]
    lines += ["open loop: error of the imagined planning state", *columns(ahead), ""]
    lines += ["inverse dynamics: the action between two frames", *columns(inverse)]
    if result.time_to_goal is not None:
        rank = result.time_to_goal
        lines += [
            "",
            f"energy against time to the end of the episode, rank correlation: {rank.median:.2f} "
            f"[{rank.low:.2f}, {rank.high:.2f}] (1: it falls with every step; 0: no relation)",
        ]
    return "\n".join(lines)
