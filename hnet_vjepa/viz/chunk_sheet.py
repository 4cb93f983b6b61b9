"""Pictures of chunks: which part of a frame belongs to which chunk, and which slot it ends up in."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.models.model import HNetVJEPA

Picture = NDArray[np.uint8]


def palette(count: int) -> NDArray[np.float64]:
    """``count`` colours (count x 3, 0..1), well apart, the same colour for the same number always."""
    # Golden-section hues come near each other again after 5, 8 or 13 numbers; none of these is a multiple of 3.
    kinds = ((0.6, 1.0), (0.9, 1.0), (0.8, 0.65))  # saturation and brightness
    hues = [(0.07 + 0.61803398875 * i) % 1.0 for i in range(count)]
    return np.array([colorsys.hsv_to_rgb(hue, *kinds[i % 3]) for i, hue in enumerate(hues)])


def paint(frame: Picture, owners: NDArray[np.int64], colours: NDArray[np.float64], zoom: int) -> Picture:
    """A frame (H x W x 3) with its cells tinted by owner (rows x columns) and a line where the owner changes."""
    height, width = frame.shape[0] * zoom, frame.shape[1] * zoom
    large = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    rows = np.arange(height) * owners.shape[0] // height
    columns = np.arange(width) * owners.shape[1] // width
    spread = owners[rows][:, columns]  # H x W
    mixed = 0.6 * large + 0.4 * colours[spread]
    edge = np.zeros(spread.shape, bool)
    edge[1:] |= spread[1:] != spread[:-1]
    edge[:, 1:] |= spread[:, 1:] != spread[:, :-1]
    mixed[edge] = 0.1
    return np.asarray((mixed * 255).round().clip(0, 255), np.uint8)


@torch.no_grad()
def chunk_sheet(model: HNetVJEPA, frames: Picture, zoom: int = 3) -> bytes:
    """A PNG of T frames (T x H x W x 3) of one episode: the frames, their live chunks, and the slots they go to."""
    chunks = model.backbone(normalise_frames(frames)[None])
    _, rows, columns = chunks.grid
    owners = chunks.assignment[0].argmax(-1).reshape(len(frames), rows, columns).cpu().numpy()
    slots = chunks.cell_slots()[0].reshape(len(frames), rows, columns).cpu().numpy()
    live = (~chunks.chunk_mask[0]).sum(-1).tolist()
    valid = (~chunks.mask[0]).sum(-1).tolist()
    chunk_colours, slot_colours = palette(chunks.assignment.shape[-1]), palette(chunks.mask.shape[-1])
    side, gap, head = frames.shape[1] * zoom, 6, 18
    sheet = Image.new("RGB", (len(frames) * (frames.shape[2] * zoom + gap) - gap, 3 * (side + head)), "white")
    draw = ImageDraw.Draw(sheet)
    for t, frame in enumerate(frames):
        plain = np.asarray(Image.fromarray(frame).resize((frame.shape[1] * zoom, side), Image.Resampling.NEAREST))
        pictures = (plain, paint(frame, owners[t], chunk_colours, zoom), paint(frame, slots[t], slot_colours, zoom))
        titles = (f"frame {t}", f"{live[t]} live chunks", f"{valid[t]} slots")
        for row, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            left, top = t * (frames.shape[2] * zoom + gap), row * (side + head)
            draw.text((left + 2, top + 3), title, fill="black")
            sheet.paste(Image.fromarray(picture), (left, top + head))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()
