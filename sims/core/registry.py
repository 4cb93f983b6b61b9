"""The table of simulated robots. To add one: write its file with a ``TASK``, and name it here.

A file of one's own needs no entry: ``get_task("package.module:TASK")`` finds it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from hnet_vjepa.errors import UserError, one_of
from sims.core.task import Task
from sims.tasks import (
    fetch_pick_and_place,
    fetch_push,
    fetch_reach,
    meta_world,
    ogbench_cube,
    panda_pick,
    point_maze,
    push_t,
    pusher,
    reacher,
    robosuite_lift,
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
        panda_pick.TASK,
        ogbench_cube.TASK,
        robosuite_lift.TASK,
    )
}


def get_task(name: str) -> Task:
    """Return the task of that name, or the one that ``name`` says where to import: ``package.module:TASK``.

    Modules are found where Python finds them and, after that, in the current directory.
    Raises UserError that lists the names, or says what is missing, when there is none.
    """
    if ":" in name:
        return _import_task(name)
    if name not in TASKS:
        raise one_of("task", name, f"{', '.join(TASKS)}, or package.module:TASK for one of your own")
    return TASKS[name]


def _import_task(name: str) -> Task:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        task = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"task '{name}' can not be imported: {error}") from error
    if not isinstance(task, Task):
        raise UserError(f"task '{name}' is a {type(task).__name__}; it must be a sims.core.task.Task")
    if task.name in TASKS and TASKS[task.name] is not task:
        raise UserError(f"task '{name}' is named '{task.name}', like one of this package; give it another name")
    return task
