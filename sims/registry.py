"""The table of simulated robots. To add one: write its file with a ``TASK``, and name it here."""

from __future__ import annotations

from hnet_vjepa.errors import one_of
from sims.task import Task
from sims.tasks import (
    fetch_pick_and_place,
    fetch_push,
    fetch_reach,
    meta_world,
    point_maze,
    push_t,
    pusher,
    reacher,
    two_room,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        fetch_reach.TASK,
        fetch_push.TASK,
        fetch_pick_and_place.TASK,
        reacher.TASK,
        pusher.TASK,
        point_maze.TASK,
        two_room.TASK,
        push_t.TASK,
        *meta_world.TASKS,
    )
}


def get_task(name: str) -> Task:
    """Return the task of that name. Raises UserError that lists the names when there is none."""
    if name not in TASKS:
        raise one_of("task", name, TASKS)
    return TASKS[name]
