"""Kinds of goals. Every module here that calls ``register`` is one kind; a new kind is a new file and nothing else.

A kind says what a goal of it is (a dataclass), when it is valid for a model, what it costs (its objective), when it is
reached, and which phase and modules of a checkpoint it needs. Importing this package imports no torch: objectives load
it when they are made, so that a client can state goals on a computer that does not plan.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
