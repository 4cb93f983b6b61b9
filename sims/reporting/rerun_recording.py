"""An evaluation as a Rerun recording: frames, distances and energies of its episodes on a time line of steps.

``rerun out.rrd`` shows it (https://rerun.io, MIT or Apache-2.0); Rerun is an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import disk_errors
from sims.evaluation.pairs import Pair
from sims.evaluation.results import EvaluationResult, Rollout

NEEDS = "pip install 'hnet-vjepa[rerun]'"


def check_rerun() -> Any:
    """Return the module ``rerun``. Raises UserError when it is not installed."""
    try:
        import rerun
    except ImportError as error:
        raise UserError(f"--rerun: Rerun is not installed: {NEEDS}") from error
    return rerun


def write_rerun(path: Path, result: EvaluationResult, pairs: Sequence[Pair]) -> None:
    """Write the episodes with frames as ``<method>/episode-<n>/...`` into ``path``, which is replaced atomically.

    Under each: ``camera`` (H x W x 3), ``goal``, the true ``distance`` to it, ``met`` (1 where the
    loosest criterion holds), and, of a planner, ``energy`` and ``plan_ms``. The time line is called ``step``.
    Raises UserError when Rerun is not installed or the file can not be written.
    """
    rerun = check_rerun()
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    stream = rerun.RecordingStream(f"hnet evaluate {result.task}")
    stream.save(partial)
    goals = {pair.index: pair.goal_frame for pair in pairs}
    for method in result.methods:
        for rollout in method.rollouts:
            if rollout.frames is not None:
                where = f"{method.name}/episode-{rollout.pair}"
                stream.log(f"{where}/goal", rerun.Image(goals[rollout.pair]), static=True)
                _log_steps(rerun, stream, where, rollout)
    stream.disconnect()
    with disk_errors(path.parent):
        partial.replace(path)


def _log_steps(rerun: Any, stream: Any, where: str, rollout: Rollout) -> None:
    assert rollout.frames is not None
    for step, frame in enumerate(rollout.frames):
        stream.set_time("step", sequence=step)
        stream.log(f"{where}/camera", rerun.Image(frame))
        stream.log(f"{where}/distance", rerun.Scalars([rollout.distances[step]]))
        stream.log(f"{where}/met", rerun.Scalars([float(rollout.met[step][0])]))
        for name, values in (("energy", rollout.energies), ("plan_ms", rollout.plan_ms)):
            if step < len(values):
                stream.log(f"{where}/{name}", rerun.Scalars([values[step]]))
