"""Regions of a goal picture, and the share of each slot's attention that lies in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError
from hnet_vjepa.specs import CameraSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.models.vjepa.vit import Chunks


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture in pixels: columns x0 up to x1 and rows y0 up to y1, x1 and y1 not included."""

    x0: int
    y0: int
    x1: int
    y1: int


def check_region(region: Region, camera: CameraSpec, where: str) -> None:
    """Raise FieldError unless a region is a rectangle of some area inside the camera's pictures."""
    across, down = (region.x0, region.x1, camera.width), (region.y0, region.y1, camera.height)
    if not all(0 <= first < last <= size for first, last, size in (across, down)):
        raise FieldError(
            where,
            f"columns {region.x0} to {region.x1}, rows {region.y0} to {region.y1}: no rectangle inside the picture of "
            f"{camera.width} columns and {camera.height} rows",
        )


def slot_shares(chunks: Chunks, region: Region, height: int, width: int) -> Tensor:
    """The share of each slot's attention that lies in a region of the picture: S numbers from 0 to 1.

    A slot attends to chunks, a chunk is the mean of the cells assigned to it, and a cell counts with the share of its
    area that is inside. The shares of regions that tile the picture add up to 1, for every slot that holds
    something; the others have 0.

    ``chunks`` are those of a clip of one frame, the picture, of ``height`` x ``width`` pixels.
    """
    import torch

    _, rows, columns = chunks.grid
    inside = torch.outer(
        covered(region.y0, region.y1, height, rows), covered(region.x0, region.x1, width, columns)
    ).flatten()  # N
    assignment, attention = chunks.assignment[0, 0].float(), chunks.attention[0, 0].float()  # N x K, S x K
    of_chunks = (inside @ assignment) / assignment.sum(0).clamp(min=1e-9)  # K
    shares = (attention @ of_chunks) / attention.sum(-1).clamp(min=1e-9)  # S
    return shares.masked_fill(chunks.mask[0, 0], 0.0)


def covered(first: int, last: int, pixels: int, cells: int) -> Tensor:
    """Share of each of the equal cells along an axis that lies between two of its pixels: ``cells`` numbers."""
    import torch

    edges = torch.arange(cells + 1) * (pixels / cells)
    overlap = edges[1:].clamp(max=last) - edges[:-1].clamp(min=first)
    return overlap.clamp(min=0) * (cells / pixels)
