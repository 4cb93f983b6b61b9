"""A sheet of recordings to look at before training: pictures, actions over time, and where time has gaps."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hnet_vjepa.data.importers.cleaning import GAP
from hnet_vjepa.data.importers.pictures import Corrected, Flip
from hnet_vjepa.data.importers.tracks import Recordings
from hnet_vjepa.data.summary import evenly_spaced
from hnet_vjepa.data.video import Size

WIDTH, HEIGHT = 14.0, 3.4  # inches of one episode


def preview(
    found: Recordings, size: Size, flip: Flip = "none", bgr: bool = False, episodes: int = 4, pictures: int = 8
) -> bytes:
    """Draw some episodes as a PNG: a row of pictures, below it the actions (or states) with gaps in red.

    Raises UserError when a picture can not be read.
    """
    chosen = [found.tracks[i] for i in evenly_spaced(len(found.tracks), episodes)]
    figure = Figure(figsize=(WIDTH, HEIGHT * len(chosen)), layout="constrained")
    FigureCanvasAgg(figure)
    names = found.action_names or found.state_names
    steps = np.concatenate([np.diff(track.times) for track in found.tracks])
    usual = float(np.median(steps)) if len(steps) else 0.0
    for part, track in zip(figure.subfigures(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
        rows = evenly_spaced(len(track), pictures)
        frames = Corrected(track.pictures, flip, bgr).read(rows, size)
        top, bottom = part.subfigures(2, 1, height_ratios=(1, 1))
        caption = next((captions[0] for captions in track.captions if captions), "")
        top.suptitle(f"{track.where}, {len(track)} rows. {caption}", fontsize=8, ha="left", x=0.01)
        for axis, row, frame in zip(np.atleast_1d(top.subplots(1, len(rows))), rows, frames, strict=True):
            axis.imshow(frame)
            axis.set_title(f"{track.times[row]:.2f} s", fontsize=7)
            axis.set_axis_off()
        axis = bottom.subplots()
        numbers = track.actions if found.action_names else track.states
        for name, column in zip(names, numbers.T, strict=True):
            axis.plot(track.times, column, linewidth=0.8, label=name)
        for gap in np.flatnonzero(np.diff(track.times) > GAP * usual):
            axis.axvspan(track.times[gap], track.times[gap + 1], color="red", alpha=0.3)
        for row in rows:
            axis.axvline(track.times[row], color="grey", linewidth=0.4)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("s", fontsize=7)
        axis.set_ylabel("actions" if found.action_names else "states" if names else "nothing recorded", fontsize=7)
        if 0 < len(names) <= 14:
            axis.legend(fontsize=6, ncols=min(7, len(names)), loc="upper right")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
