"""Collecting episodes of a simulated robot into a store, in parallel, the same bytes whatever the number of workers."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from hnet_vjepa.data.store import Episode, StoreInfo, create_store, write_shard
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.progress import progress_counter
from sims.core.language import captions, motion_labels, position_labels
from sims.core.registry import get_task
from sims.core.rendering import Backend, assume, backend
from sims.core.seeds import episode_seed, generator
from sims.core.task import Simulation, Task, scatter

SHARD_EPISODES = 25


def store_info(task: Task, episodes: int, seed: int, drawn_with: str) -> StoreInfo:
    """Describe the store that ``collect`` makes."""
    return StoreInfo(
        source=task.name,
        camera=task.camera,
        action=task.action,
        shards=-(-episodes // SHARD_EPISODES),
        states=task.states,
        labels=task.labels,
        settings={
            "seed": seed,
            "episodes": episodes,
            "frames": task.collect_frames,
            "domain": "collect",
            "renderer": drawn_with,
        },
    )


def record(task: Task, simulation: Simulation, seed: int, index: int) -> Episode:
    """Record one episode: a random start, then ``task.collect_frames`` frames of the data policy."""
    rng = generator(seed)
    words = rng.spawn(1)[0]  # so that another phrasing never changes what the robot does
    scatter(task, simulation, rng)
    act = task.data_policy(rng)
    frames, states, actions = [simulation.frame()], [simulation.state()], []
    for _ in range(task.collect_frames - 1):
        action = np.clip(act(states[-1]), task.action.low, task.action.high).astype(np.float32)
        simulation.step(action)
        actions.append(action)
        frames.append(simulation.frame())
        states.append(simulation.state())
    places = [] if task.place is None else [task.place(state) for state in states]
    pairs = list(zip([None, *places[:-1]], places, strict=True)) if places else []
    true_labels = [{*position_labels(now), *motion_labels(before, now)} for before, now in pairs]
    said = tuple(captions(before, now, words, task.subject) for before, now in pairs)
    return Episode(
        index=index,
        seed=seed,
        frames=np.stack(frames),
        actions=np.stack(actions),
        captions=said or ((),) * len(frames),
        states=np.stack(states),
        labels=np.array([[name in true for name in task.labels] for true in true_labels], np.uint8) if pairs else None,
    )


@functools.cache
def _simulation(task_name: str) -> Simulation:
    return get_task(task_name).open()  # one per worker: making one takes longer than an episode


def _work(number: int, task_name: str, seed: int, info: StoreInfo, out: Path) -> int:
    return _write_shard(number, get_task(task_name), _simulation(task_name), seed, info, out)


def _write_shard(number: int, task: Task, simulation: Simulation, seed: int, info: StoreInfo, out: Path) -> int:
    first, total = number * SHARD_EPISODES, int(info.settings["episodes"])
    indices = range(first, min(total, first + SHARD_EPISODES))
    write_shard(out, number, info, [record(task, simulation, episode_seed("collect", seed, i), i) for i in indices])
    return len(indices)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C: it is this one's to handle, and their shards are finished."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_parallel(
    shards: list[int], processes: int, drawn_with: Backend, task_name: str, seed: int, info: StoreInfo, out: Path
) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")  # a forked graphics context does not work
    pool = ProcessPoolExecutor(processes, context, initializer=assume, initargs=(drawn_with,))
    try:
        with _without_interrupts():
            pending = [pool.submit(_work, n, task_name, seed, info, out) for n in shards]
        for done in as_completed(pending):
            yield done.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process was killed (not enough memory for {processes}?); run the same command again, "
            "with fewer --workers: it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def collect(
    task_name: str, episodes: int, seed: int, out: Path, workers: int | None = None, progress: bool = True
) -> Path:
    """Collect ``episodes`` episodes of a task into the store ``out`` and return ``out``.

    Every episode depends on the task, ``seed`` and its own number only. An interrupted collection is taken up where it
    stopped. ``workers``: processes, by default one per CPU core.
    Raises UserError for an unknown task, a bad number, or a directory that holds something else.
    """
    task = get_task(task_name)
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; it must be at least 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1")
    episode_seed("collect", seed, episodes - 1)
    drawn_with = backend()
    info = store_info(task, episodes, seed, task.drawn_by())
    missing = sorted(set(range(info.shards)) - create_store(out, info))
    processes = min(workers or os.cpu_count() or 1, len(missing))
    with progress_counter("collect", episodes, "episode", progress) as add:
        add(episodes - sum(min(SHARD_EPISODES, episodes - n * SHARD_EPISODES) for n in missing))
        if processes > 1:
            for count in _in_parallel(missing, processes, drawn_with, task_name, seed, info, out):
                add(count)
        elif missing:
            with contextlib.closing(task.open()) as simulation:
                for number in missing:
                    add(_write_shard(number, task, simulation, seed, info, out))
    return out
