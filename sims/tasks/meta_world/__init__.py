"""Meta-World: a Sawyer arm and things to reach, push, open and press, one file per task."""

from sims.core.task import Task
from sims.tasks.meta_world import button, door, drawer, push, reach

TASKS: tuple[Task, ...] = (
    reach.REACH_TASK,
    reach.WALL_TASK,
    push.TASK,
    drawer.TASK,
    door.TASK,
    button.TASK,
)
