"""A sheet of a clip's frames: the cells coloured by chunk, and by the slot that each chunk is pooled into."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.models.model import HNetVJEPA

Frame = NDArray[np.uint8]


def palette(count: int) -> NDArray[np.float64]:
    """``count`` well separated colours (count x 3, from 0 to 1); an index has the same colour for every count."""
    # Golden-section hues are similar 5, 8 or 13 indices apart; none of these is a multiple of the 3 kinds.
    kinds = ((0.6, 1.0), (0.9, 1.0), (0.8, 0.65))  # saturation and brightness
    hues = [(0.07 + 0.61803398875 * i) % 1.0 for i in range(count)]
    return np.array([colorsys.hsv_to_rgb(hue, *kinds[i % 3]) for i, hue in enumerate(hues)])


def overlay(frame: Frame, owners: NDArray[np.int64], colours: NDArray[np.float64], zoom: int) -> Frame:
    """A frame (H x W x 3) enlarged by ``zoom``, blended with the colours of its cells' owners (rows x columns).

    Boundaries between owners are drawn dark.
    """
    height, width = frame.shape[0] * zoom, frame.shape[1] * zoom
    large = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    rows = np.arange(height) * owners.shape[0] // height
    columns = np.arange(width) * owners.shape[1] // width
    owner = owners[rows][:, columns]  # height x width
    blended = 0.6 * large + 0.4 * colours[owner]
    boundary = np.zeros(owner.shape, bool)
    boundary[1:] |= owner[1:] != owner[:-1]
    boundary[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    blended[boundary] = 0.1
    return np.asarray((blended * 255).round().clip(0, 255), np.uint8)


@torch.no_grad()
def chunk_sheet(model: HNetVJEPA, frames: Frame, zoom: int = 3) -> bytes:
    """A PNG of T frames (T x H x W x 3) of one episode in three rows: the frames, their live chunks, their slots."""
    chunks = model.backbone(normalise_frames(frames)[None])
    _, rows, columns = chunks.grid
    owners = chunks.assignment[0].argmax(-1).reshape(len(frames), rows, columns).cpu().numpy()
    slots = chunks.cell_slots()[0].reshape(len(frames), rows, columns).cpu().numpy()
    live = (~chunks.chunk_mask[0]).sum(-1).tolist()
    valid = (~chunks.mask[0]).sum(-1).tolist()
    chunk_colours, slot_colours = palette(chunks.assignment.shape[-1]), palette(chunks.mask.shape[-1])
    height, width = frames.shape[1] * zoom, frames.shape[2] * zoom
    gap, title_height = 6, 18
    sheet = Image.new("RGB", (len(frames) * (width + gap) - gap, 3 * (height + title_height)), "white")
    draw = ImageDraw.Draw(sheet)
    for t, frame in enumerate(frames):
        plain = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST))
        images = (plain, overlay(frame, owners[t], chunk_colours, zoom), overlay(frame, slots[t], slot_colours, zoom))
        titles = (f"frame {t}", f"{live[t]} live chunks", f"{valid[t]} slots")
        for row, (image, title) in enumerate(zip(images, titles, strict=True)):
            left, top = t * (width + gap), row * (height + title_height)
            draw.text((left + 2, top + 3), title, fill="black")
            sheet.paste(Image.fromarray(image), (left, top + title_height))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()
