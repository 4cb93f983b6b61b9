"""Episodes of fetch-push in which the saliency of every cell is known, from the rays that draw the frames."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.chunking.small_models import CELLS, GRID
from hnet_vjepa.data.store import Episode, create_store, write_shard
from sims.core.collect import SHARD_EPISODES, record, store_info
from sims.core.rendering import RayCaster
from sims.core.seeds import episode_seed
from sims.core.task import Task
from sims.tasks import fetch, fetch_push

SALIENT = ("object0", *(f"robot0:{name}" for name in fetch.FINGERS))  # bodies whose pixels are salient

Array = NDArray[np.float32]


class LabelledPush(fetch_push.FetchPush):
    """Fetch push, drawn by the ray caster, that also records the saliency of every frame that it draws."""

    def __init__(self) -> None:
        super().__init__()
        wanted = [self._model.body(name).id for name in SALIENT]
        self._geoms = np.flatnonzero(np.isin(self._model.geom_bodyid, wanted))
        size = fetch_push.CAMERA
        self._caster = RayCaster(self._model, self._data, fetch_push.VIEW, size.height, size.width, 1.0)
        self.saliency: list[Array] = []

    def frame(self) -> NDArray[np.uint8]:
        """Draw a frame, and append the saliency of its cells (N, in reading order) to ``saliency``."""
        frame = self._caster.render()
        self.saliency.append(cell_shares(np.isin(self._caster.geoms(), self._geoms), GRID))
        return frame


def cell_shares(salient: NDArray[np.bool_], grid: tuple[int, int]) -> Array:
    """Share of every cell's pixels that are salient: H x W, a multiple of the grid, -> rows * columns."""
    rows, columns = grid
    height, width = salient.shape
    cells = salient.reshape(rows, height // rows, columns, width // columns)
    return cells.mean((1, 3)).astype(np.float32).ravel()


def collect_labelled(task: Task, episodes: int, seed: int, out: Path) -> Path:
    """Collect as ``sims.core.collect`` does, with the cells' saliency appended to the recorded state."""
    cells = tuple(f"saliency of cell {i}" for i in range(CELLS))
    info = store_info(task, episodes, seed, "raycast").model_copy(update={"states": (*task.states, *cells)})
    missing = sorted(set(range(info.shards)) - create_store(out, info))
    with contextlib.closing(LabelledPush()) as simulation:
        for number in missing:
            first = number * SHARD_EPISODES
            indices = range(first, min(first + SHARD_EPISODES, episodes))
            write_shard(
                out, number, info, [_labelled(task, simulation, episode_seed("collect", seed, i), i) for i in indices]
            )
    return out


def _labelled(task: Task, simulation: LabelledPush, seed: int, index: int) -> Episode:
    simulation.saliency.clear()
    episode = record(task, simulation, seed, index)
    assert episode.states is not None
    return replace(episode, states=np.concatenate([episode.states, np.stack(simulation.saliency)], 1))
