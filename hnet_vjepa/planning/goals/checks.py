"""Checks that several kinds of goals and the cost share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError, UserError, one_of

if TYPE_CHECKING:
    from hnet_vjepa.planning.interface import ModelCard

LARGEST = 1e6  # of a stored state's numbers and of weights, which are of the order of 1


def check_weights(weights: Sequence[float], count: int, of: str, where: str) -> None:
    """Raise FieldError unless there are ``count`` weights, none negative, not all zero."""
    if len(weights) != count:
        raise FieldError(where, f"{len(weights)} numbers for {count} {of}")
    if not all(0 <= weight <= LARGEST for weight in weights):  # so NaN is refused
        raise FieldError(where, f"every weight must be a number from 0 to {LARGEST:g}")
    if not any(weights):
        raise FieldError(where, "all weights are zero; at least one must be positive")


def check_labels(labels: Sequence[str], card: ModelCard, where: str, numbered: bool = True) -> None:
    """Raise FieldError for the first label that the model does not know: ``where.1``, or ``where`` itself."""
    for index, name in enumerate(labels):
        if name not in card.labels:
            problem: UserError = one_of("label", name, card.labels)
            raise FieldError(f"{where}.{index}" if numbered else where, str(problem))
