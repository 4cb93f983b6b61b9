"""Factors of variation: how far an evaluation may depart from what a model was trained on, one factor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError, one_of

Factor = Literal["light", "camera", "colours", "distractors", "friction"]
FACTORS: tuple[Factor, ...] = get_args(Factor)
MOST_DISTRACTORS = 6


@dataclass(frozen=True)
class Variation:
    """One factor and how strong it is: 0 is as trained, 1 the farthest that is tried.

    light: up to three quarters of it gone; camera: turned by up to 20 and tilted by up to 8 degrees; colours: each
    colour's red, green and blue exchanged; distractors: up to six coloured objects that stand in the picture and are
    in nobody's way; friction: up to 85 % of friction and damping gone.
    Raises UserError for an unknown factor or a strength outside 0 to 1.
    """

    factor: Factor = "light"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise one_of("factor", self.factor, FACTORS)
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength is {self.strength:g}; allowed are 0 (as trained) to 1")

    def distractors(self) -> NDArray[np.float64]:
        """What stands in the picture: N x 6 of column, row and radius (shares of the picture's size), and a colour.

        More of them at a higher strength, and those of a lower strength among them.
        """
        rng = np.random.default_rng(7)
        count = round(MOST_DISTRACTORS * self.strength) if self.factor == "distractors" else 0
        place = rng.uniform(0.06, 0.94, (MOST_DISTRACTORS, 2))
        radius = rng.uniform(0.03, 0.06, (MOST_DISTRACTORS, 1))
        colour = rng.uniform(0.1, 1.0, (MOST_DISTRACTORS, 3))
        return np.concatenate([place, radius, colour], 1)[:count]
