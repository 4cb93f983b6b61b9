"""A film of a clip's chunks: every frame beside its chunks, and below how many there are and how large, over time.

A prototype keeps its colour, so a chunk that stays the same keeps it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from hnet_vjepa.data.summary import encode_png
from hnet_vjepa.data.video import fit
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.viz.chunk_sheet import Picture, paint, palette
from hnet_vjepa.viz.frame_source import Footage
from hnet_vjepa.viz.tracking import Track, track
from hnet_vjepa.viz.video_writer import Mp4, encode_gif

SIDE = 224  # least height of a shown frame in pixels; it is a whole multiple of what the model sees
COLUMNS = 6  # frames on the contact sheet
GIF_FRAMES, GIF_SCALE = 18, 2  # a GIF is for pages, which want it small: fewer frames, so many times smaller
GAP = 6  # pixels between pictures
TITLE = 20  # pixels of a line of text
COUNTS, SHARES = 48, 56  # heights of the two strips
INK, PALE, BAR = (38, 45, 56), (236, 239, 243), (122, 138, 158)


@dataclass(frozen=True)
class ChunkFilm:
    """The chunks of a clip, and the bytes of the files that show them."""

    seen: Track
    mp4: bytes  # all frames
    gif: bytes  # some of them, half as large
    png: bytes  # a contact sheet


def film_chunks(model: HNetVJEPA, footage: Footage, progress: bool = True) -> ChunkFilm:
    """Follow the chunks of ``model`` through footage of any size and film them.

    The model sees every picture scaled and cut to its camera; what is shown is cut the same and not made as small.
    Raises UserError when the footage is damaged or has no pictures.
    """
    camera = (model.robot.camera.height, model.robot.camera.width)
    zoom = -(-SIDE // camera[0])
    shown = (camera[0] * zoom, camera[1] * zoom)
    bar = partial(tqdm, unit="frame", disable=None if progress else True)
    seen = track(model.backbone, (fit(picture, camera) for picture in bar(footage.pictures(), desc="encoding")))

    count = len(seen.owners)
    on_sheet, in_gif = _spread(count, COLUMNS), _spread(count, GIF_FRAMES)
    canvas = Canvas(seen, shown)
    columns: list[tuple[int, Picture]] = []
    gif: list[Image.Image] = []
    mp4 = Mp4(canvas.size, footage.rate)
    for t, picture in enumerate(bar(footage.pictures(), desc="drawing", total=count)):
        frame = fit(picture, shown)
        drawn = canvas.draw(t, frame)
        mp4.add(drawn)
        if t in in_gif:
            gif.append(drawn.reduce(GIF_SCALE))
        if t in on_sheet:
            columns.append((t, frame))
    sheet = contact_sheet(seen, columns).quantize(256)  # a third of the size of all colours
    return ChunkFilm(seen, mp4.finish(), encode_gif(gif, footage.rate * len(gif) / count), encode_png(sheet))


def paint_chunks(frame: Picture, seen: Track, t: int, colours: NDArray[np.float64]) -> Image.Image:
    """Frame t (H x W x 3) tinted by chunk, a dot at each chunk's centroid whose area grows with the chunk's cells."""
    picture = Image.fromarray(paint(frame, seen.owners[t], colours, 1))
    draw = ImageDraw.Draw(picture)
    cells = np.bincount(seen.owners[t].ravel(), minlength=len(colours))  # K, how many cells each has won
    for k in np.flatnonzero(seen.live[t]):
        y, x = (seen.centroids[t, k] + 1) / 2 * (picture.height, picture.width)
        radius = 2 + 0.12 * picture.height * (cells[k] / cells.sum()) ** 0.5
        fill = tuple((colours[k] * 255).astype(int).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, INK)
    return picture


def strips(seen: Track, width: int) -> Image.Image:
    """Two strips over time: how many chunks each frame has, and how many cells each of them owns, in its colour."""
    prototypes, frames = seen.live.shape[1], len(seen.owners)
    when = np.arange(width) * frames // width  # the frame that a column shows
    counts = np.full((COUNTS, width, 3), PALE, np.uint8)
    tall = (COUNTS * seen.counts[when] / prototypes).round()
    counts[np.arange(COUNTS)[::-1, None] < tall] = BAR
    sorted_owners = np.sort(seen.owners.reshape(frames, -1), 1)  # T x N: the same prototype's cells side by side
    stacked = sorted_owners[:, np.arange(SHARES) * sorted_owners.shape[1] // SHARES]  # T x SHARES
    shares = (palette(prototypes) * 255).astype(np.uint8)[stacked[when].T]  # SHARES x width x 3
    sheet = Image.new("RGB", (width, 2 * TITLE + COUNTS + SHARES), "white")
    draw = ImageDraw.Draw(sheet)
    found = seen.distribution()
    most = f"of {prototypes} prototypes"
    _title(draw, 0, 0, f"live chunks per frame: {found.least} to {found.most}, median {found.median:g}, {most}")
    sheet.paste(Image.fromarray(counts), (0, TITLE))
    _title(draw, 0, TITLE + COUNTS, "cells that each chunk owns")
    sheet.paste(Image.fromarray(shares), (0, 2 * TITLE + COUNTS))
    return sheet


class Canvas:
    """What the pictures of one film have in common: colours, and the strips below frames of ``shown`` (H, W)."""

    def __init__(self, seen: Track, shown: tuple[int, int]) -> None:
        self.seen, (self.height, self.width) = seen, shown
        self.colours = palette(seen.live.shape[1])
        self.below = strips(seen, 2 * self.width + GAP)
        self.size = (TITLE + self.height + self.below.height, self.below.width)

    def draw(self, t: int, frame: Picture) -> Image.Image:
        """Frame t (H x W x 3), its chunks beside it, and the strips with a mark at it."""
        sheet = Image.new("RGB", self.size[::-1], "white")
        draw = ImageDraw.Draw(sheet)
        _title(draw, 0, 0, f"frame {t}")
        _title(draw, self.width + GAP, 0, f"{self.seen.live[t].sum()} chunks")
        sheet.paste(Image.fromarray(frame), (0, TITLE))
        sheet.paste(paint_chunks(frame, self.seen, t, self.colours), (self.width + GAP, TITLE))
        sheet.paste(self.below, (0, TITLE + self.height))
        mark = (t + 0.5) * self.below.width / len(self.seen.owners)
        for top, tall in ((TITLE, COUNTS), (2 * TITLE + COUNTS, SHARES)):
            top += TITLE + self.height
            draw.line([(mark, top), (mark, top + tall - 1)], INK, 2)
        return sheet


def contact_sheet(seen: Track, shown: Sequence[tuple[int, Picture]]) -> Image.Image:
    """Some frames (their number and picture, H x W x 3) above their chunks, and the strips of the whole clip."""
    colours = palette(seen.live.shape[1])
    height, width = shown[0][1].shape[:2]
    whole = len(shown) * (width + GAP) - GAP
    below = strips(seen, whole)
    sheet = Image.new("RGB", (whole, 2 * (TITLE + height) + below.height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (t, frame) in enumerate(shown):
        left = column * (width + GAP)
        _title(draw, left, 0, f"frame {t}")
        sheet.paste(Image.fromarray(frame), (left, TITLE))
        _title(draw, left, TITLE + height, f"{seen.live[t].sum()} chunks")
        sheet.paste(paint_chunks(frame, seen, t, colours), (left, 2 * TITLE + height))
    sheet.paste(below, (0, 2 * (TITLE + height)))
    return sheet


def _title(draw: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    draw.text((left + 2, top + 2), text, INK, ImageFont.load_default(size=13))


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` different indices below ``count``, evenly spread, first and last among them."""
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(count, wanted))})
