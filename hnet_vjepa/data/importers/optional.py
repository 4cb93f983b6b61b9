"""Packages that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from hnet_vjepa.errors import UserError


def need(module: str, what: str) -> Any:
    """Import a module of the extra ``data``. Raises UserError saying how to install it when it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UserError(f"reading {what} needs the package {package}; pip install 'hnet-vjepa[data]'") from error
