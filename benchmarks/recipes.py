"""How the model of every simulated robot is trained: configuration, number of episodes and phases."""

from __future__ import annotations

from dataclasses import dataclass

from hnet_vjepa.config import PHASES, PhaseName
from sims.evaluation.pairs import GoalKind

IMAGES_ONLY: tuple[PhaseName, ...] = ("pretrain", "action")
WITH_LABELS: tuple[PhaseName, ...] = ("pretrain", "probe", "action")


@dataclass(frozen=True)
class Recipe:
    """How a task's model is trained, and which kinds of goals it is evaluated on besides images."""

    config: str  # a name in hnet_vjepa/configs
    episodes: int = 800  # that the data policy collects
    phases: tuple[PhaseName, ...] = IMAGES_ONLY
    goals: tuple[GoalKind, ...] = ()


RECIPES: dict[str, Recipe] = {
    "fetch-reach": Recipe("fetch_reach", 1000, PHASES, ("text", "label")),
    "reacher": Recipe("reacher", 3600),
    "point-maze": Recipe("point_maze", phases=WITH_LABELS, goals=("label",)),
    "two-room": Recipe("two_room", 700, WITH_LABELS, ("label",)),
    "meta-world-reach": Recipe("meta_world_reach"),
    "meta-world-reach-wall": Recipe("meta_world_reach_wall", 1600),
    "fetch-push": Recipe("fetch_push", 8000, PHASES, ("text", "label")),
    "push-t": Recipe("push_t", 8000),
    "meta-world-drawer-open": Recipe("meta_world_object", 1500),
    "meta-world-button-press": Recipe("meta_world_object", 1500),
    "meta-world-door-open": Recipe("meta_world_object", 1500),
    "meta-world-push": Recipe("fetch_push", 2500),
    "fetch-pick-and-place": Recipe("fetch_pick_and_place", 8000, PHASES, ("text", "label")),
    "pusher": Recipe("fetch_push", 3000),
    "panda-pick": Recipe("fetch_push", 1500),
    "ogbench-cube": Recipe("fetch_push", 4500),
    "robosuite-lift": Recipe("fetch_push", 2000),
}
