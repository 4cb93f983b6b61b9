"""Seeds of episodes. Collecting, tuning and testing draw from number ranges that cannot meet.

An episode's seed is one integer: the domain in the highest bits, then the user's seed, then the episode's index. So no
collection, whatever its seed and size, can repeat an evaluation episode, and a stored seed says where it came from.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from hnet_vjepa.errors import UserError

Domain = Literal["collect", "dev", "test"]
SEED_BITS, INDEX_BITS = 32, 24


def episode_seed(domain: Domain, seed: int, index: int) -> int:
    """Return the seed of one episode. Raises UserError when ``seed`` or ``index`` is out of range."""
    for name, value, bits in (("seed", seed, SEED_BITS), ("episode", index, INDEX_BITS)):
        if not 0 <= value < 2**bits:
            raise UserError(f"{name} {value} is out of range; allowed are 0 to {2**bits - 1}")
    return (get_args(Domain).index(domain) + 1) << (SEED_BITS + INDEX_BITS) | seed << INDEX_BITS | index


def domain_of(seed: int) -> Domain | None:
    """Return the domain that an episode's seed belongs to, or None for a seed that was not made here."""
    number = seed >> (SEED_BITS + INDEX_BITS)
    domains = get_args(Domain)
    return domains[number - 1] if 1 <= number <= len(domains) else None


def generator(seed: int) -> np.random.Generator:
    """Return the random numbers of the episode with this seed."""
    return np.random.default_rng(seed)
