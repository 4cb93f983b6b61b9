"""A video of a clip's chunks: each frame beside its chunks, above their number and sizes over time.

A chunk index has one colour throughout, so a chunk that is tracked over time keeps its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from hnet_vjepa.data.summary import encode_png, evenly_spaced
from hnet_vjepa.data.video import fit
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.viz.chunk_sheet import Frame, overlay, palette
from hnet_vjepa.viz.frame_source import FrameSource
from hnet_vjepa.viz.tracking import ChunkTrack, track_chunks
from hnet_vjepa.viz.video_writer import VideoWriter, encode_gif

MIN_HEIGHT = 224  # pixels of a drawn frame; its size is a multiple of the model's camera
SHEET_FRAMES = 6
GIF_FRAMES, GIF_SCALE = 18, 2  # a GIF is for web pages: fewer frames, reduced by this factor
GAP = 6  # pixels between images
TITLE = 20  # pixels of a line of text
COUNTS, SHARES = 48, 56  # heights of the two diagrams in pixels
DARK, LIGHT, BAR = (38, 45, 56), (236, 239, 243), (122, 138, 158)


@dataclass(frozen=True)
class ChunkVideo:
    """The chunks of a clip, and the bytes of the files that show them."""

    track: ChunkTrack
    mp4: bytes  # all frames
    gif: bytes  # GIF_FRAMES of them, at half the size
    png: bytes  # a contact sheet


def render_chunk_video(model: HNetVJEPA, source: FrameSource, progress: bool = True) -> ChunkVideo:
    """Track the chunks of ``model`` through a clip of any frame size and draw them.

    The model receives each frame scaled and cropped to its camera; the drawn frame has the same crop at a higher
    resolution. Raises UserError when the source is damaged or has no frames.
    """
    camera = (model.robot.camera.height, model.robot.camera.width)
    zoom = -(-MIN_HEIGHT // camera[0])
    drawn_size = (camera[0] * zoom, camera[1] * zoom)
    bar = partial(tqdm, unit="frame", disable=None if progress else True)
    track = track_chunks(model.backbone, (fit(frame, camera) for frame in bar(source.frames(), desc="encoding")))

    count = len(track.owners)
    on_sheet, in_gif = evenly_spaced(count, SHEET_FRAMES), evenly_spaced(count, GIF_FRAMES)
    renderer = FrameRenderer(track, drawn_size)
    columns: list[tuple[int, Frame]] = []
    gif: list[Image.Image] = []
    mp4 = VideoWriter(renderer.size, source.fps)
    for t, picture in enumerate(bar(source.frames(), desc="drawing", total=count)):
        frame = fit(picture, drawn_size)
        image = renderer.draw(t, frame)
        mp4.add(image)
        if t in in_gif:
            gif.append(image.reduce(GIF_SCALE))
        if t in on_sheet:
            columns.append((t, frame))
    sheet = contact_sheet(track, columns).quantize(256)  # a third of the size of an RGB file
    return ChunkVideo(track, mp4.finish(), encode_gif(gif, source.fps * len(gif) / count), encode_png(sheet))


def overlay_chunks(frame: Frame, track: ChunkTrack, t: int, colours: NDArray[np.float64]) -> Image.Image:
    """Frame t (H x W x 3) coloured by chunk; a dot at each centroid, its area proportional to the chunk's cells."""
    image = Image.fromarray(overlay(frame, track.owners[t], colours, 1))
    draw = ImageDraw.Draw(image)
    cells = np.bincount(track.owners[t].ravel(), minlength=len(colours))  # K, cells of each chunk
    for k in np.flatnonzero(track.live[t]):
        y, x = (track.centroids[t, k] + 1) / 2 * (image.height, image.width)
        radius = 2 + 0.12 * image.height * (cells[k] / cells.sum()) ** 0.5
        fill = tuple((colours[k] * 255).astype(int).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, DARK)
    return image


def timeline(track: ChunkTrack, width: int) -> Image.Image:
    """Two diagrams over time: the number of live chunks, and each chunk's share of the cells in its colour."""
    prototypes, frames = track.live.shape[1], len(track.owners)
    frame_of = np.arange(width) * frames // width  # the frame of each pixel column
    counts = np.full((COUNTS, width, 3), LIGHT, np.uint8)
    bar_heights = (COUNTS * track.counts[frame_of] / prototypes).round()
    counts[np.arange(COUNTS)[::-1, None] < bar_heights] = BAR
    sorted_owners = np.sort(track.owners.reshape(frames, -1), 1)  # T x N, the cells of a chunk are contiguous
    stacked = sorted_owners[:, np.arange(SHARES) * sorted_owners.shape[1] // SHARES]  # T x SHARES
    shares = (palette(prototypes) * 255).astype(np.uint8)[stacked[frame_of].T]  # SHARES x width x 3
    image = Image.new("RGB", (width, 2 * TITLE + COUNTS + SHARES), "white")
    draw = ImageDraw.Draw(image)
    found = track.statistics()
    title = f"live chunks per frame: {found.least} to {found.most}, median {found.median:g}, of {prototypes} prototypes"
    _title(draw, 0, 0, title)
    image.paste(Image.fromarray(counts), (0, TITLE))
    _title(draw, 0, TITLE + COUNTS, "cells that each chunk owns")
    image.paste(Image.fromarray(shares), (0, 2 * TITLE + COUNTS))
    return image


class FrameRenderer:
    """Draws the frames of one video; ``frame_size`` (H, W) is that of a frame without the diagrams.

    Attributes: ``size``, height and width of a drawn image.
    """

    def __init__(self, track: ChunkTrack, frame_size: tuple[int, int]) -> None:
        self.track, (self.height, self.width) = track, frame_size
        self.colours = palette(track.live.shape[1])
        self.timeline = timeline(track, 2 * self.width + GAP)
        self.size = (TITLE + self.height + self.timeline.height, self.timeline.width)

    def draw(self, t: int, frame: Frame) -> Image.Image:
        """Frame t (H x W x 3), its chunks beside it, and the timeline with a mark at t."""
        image = Image.new("RGB", self.size[::-1], "white")
        draw = ImageDraw.Draw(image)
        _title(draw, 0, 0, f"frame {t}")
        _title(draw, self.width + GAP, 0, f"{self.track.live[t].sum()} chunks")
        image.paste(Image.fromarray(frame), (0, TITLE))
        image.paste(overlay_chunks(frame, self.track, t, self.colours), (self.width + GAP, TITLE))
        image.paste(self.timeline, (0, TITLE + self.height))
        mark = (t + 0.5) * self.timeline.width / len(self.track.owners)
        for top, height in ((TITLE, COUNTS), (2 * TITLE + COUNTS, SHARES)):
            top += TITLE + self.height
            draw.line([(mark, top), (mark, top + height - 1)], DARK, 2)
        return image


def contact_sheet(track: ChunkTrack, shown: Sequence[tuple[int, Frame]]) -> Image.Image:
    """Some frames (index and image, H x W x 3) above their chunks, and the timeline of the whole clip."""
    colours = palette(track.live.shape[1])
    height, width = shown[0][1].shape[:2]
    total_width = len(shown) * (width + GAP) - GAP
    diagrams = timeline(track, total_width)
    sheet = Image.new("RGB", (total_width, 2 * (TITLE + height) + diagrams.height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (t, frame) in enumerate(shown):
        left = column * (width + GAP)
        _title(draw, left, 0, f"frame {t}")
        sheet.paste(Image.fromarray(frame), (left, TITLE))
        _title(draw, left, TITLE + height, f"{track.live[t].sum()} chunks")
        sheet.paste(overlay_chunks(frame, track, t, colours), (left, 2 * TITLE + height))
    sheet.paste(diagrams, (0, 2 * (TITLE + height)))
    return sheet


def _title(draw: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    draw.text((left + 2, top + 2), text, DARK, ImageFont.load_default(size=13))
