"""Summary statistics and a contact sheet of a data set, to look at before training on it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hnet_vjepa.data.store import Captions, Episode, EpisodeStore


@dataclass(frozen=True)
class Column:
    """Statistics of one dimension of the actions or states over all frames."""

    name: str
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Statistics of a data set over all its episodes; ``actions`` and ``states`` are in the robot's units."""

    source: str
    train_episodes: int
    held_out_episodes: int
    frames: int
    shortest: int  # frames
    longest: int
    seconds: float  # recorded time
    actions: list[Column]
    states: list[Column]
    labels: dict[str, float]  # fraction of the frames at which each is 1
    captioned: float  # fraction of the frames with at least one caption
    sentences: dict[str, int]  # the most frequent captions and their numbers of frames
    different_sentences: int
    bytes: int
    fingerprint: str


def summarise(store: EpisodeStore, most_sentences: int = 8) -> Summary:
    """Compute the statistics of a store, without reading frames."""
    episodes, info = store.episodes, store.info
    lengths = [len(episode) for episode in episodes]
    sentences: Counter[str] = Counter()
    captioned = 0
    for captions, count in _runs(episodes):
        sentences.update(dict.fromkeys(captions, count))
        captioned += count if captions else 0
    labels = [episode.labels for episode in episodes if episode.labels is not None]
    frequencies = np.concatenate(labels).mean(0).tolist() if labels else []
    return Summary(
        source=info.source,
        train_episodes=len(store.split("train")),
        held_out_episodes=len(store.split("held_out")),
        frames=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        seconds=sum(length - 1 for length in lengths) * info.camera.dt,
        actions=_columns(info.action.names, [episode.actions for episode in episodes]),
        states=_columns(info.states, [episode.states for episode in episodes if episode.states is not None]),
        labels=dict(zip(info.labels, frequencies, strict=True)),
        captioned=captioned / sum(lengths),
        sentences=dict(sentences.most_common(most_sentences)),
        different_sentences=len(sentences),
        bytes=sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        fingerprint=store.fingerprint(),
    )


def contact_sheet(episodes: Sequence[Episode], rows: int = 8, columns: int = 10, least: int = 64) -> Image.Image:
    """Draw some episodes, one per row: evenly spaced frames below the episode's first caption.

    Frames with a side below ``least`` pixels are enlarged by an integer factor without interpolation.
    """
    chosen = [episodes[i] for i in evenly_spaced(len(episodes), rows)]
    columns = min(columns, max(len(episode) for episode in chosen))
    height, width = chosen[0].frames.shape[1:3]
    scale = max(1, -(-least // min(height, width)))
    line = 14  # pixels of text above each row
    sheet = Image.new("RGB", (columns * (width * scale + 2), len(chosen) * (height * scale + line + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, episode in enumerate(chosen):
        top = row * (height * scale + line + 2)
        words = next((captions[0] for captions in episode.captions if captions), "")
        draw.text((2, top), f"episode {episode.index}, {len(episode)} frames. {words}", fill="black")
        for column, t in enumerate(evenly_spaced(len(episode), columns)):
            frame = Image.fromarray(np.asarray(episode.frames[t])).resize((width * scale, height * scale), 0)
            sheet.paste(frame, (column * (width * scale + 2), top + line))
    return sheet


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices from 0 to ``count`` - 1, evenly spaced, including the first and the last."""
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(count, wanted))})


def encode_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _runs(episodes: Sequence[Episode]) -> list[tuple[Captions, int]]:
    """Runs of frames with the same captions, and their lengths."""
    return [(captions, len(list(run))) for episode in episodes for captions, run in groupby(episode.captions)]


def _columns(names: Sequence[str], parts: Sequence[NDArray[np.float32]]) -> list[Column]:
    if not names:
        return []
    rows = np.concatenate(parts).astype(np.float64)
    measured = zip(names, rows.mean(0), rows.std(0), rows.min(0), rows.max(0), strict=True)
    return [Column(name, *map(float, numbers)) for name, *numbers in measured]
