"""``hnet viz``: visualise a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.models import MODEL_HELP, chosen_checkpoint

if TYPE_CHECKING:
    from hnet_vjepa.viz.frame_source import FrameSource

app = typer.Typer(help="Visualise a model.", no_args_is_help=True)


@app.callback()
def viz() -> None:
    """Visualise a model."""


@app.command("chunks")
def chunks(
    video: Annotated[Path | None, typer.Option(help="A video file of any size and length.")] = None,
    data: Annotated[Path | None, typer.Option(help="Or a data set, of which one episode is shown.")] = None,
    episode: Annotated[int | None, typer.Option(help="Number of the episode in --data; by default its first.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint of any phase.")] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    frames: Annotated[int, typer.Option(min=1, help="Largest number of frames, from the first.")] = 300,
    out: Annotated[Path, typer.Option(help="Directory for chunks.mp4, chunks.gif, chunks.png and chunks.json.")] = Path(
        "outputs/chunks"
    ),
) -> None:
    """Draw the chunks of a clip as a video, a GIF and a contact sheet, and print the number of chunks per frame.

    A chunk keeps its colour over time. Dots are centroids, their area proportional to the chunk; below are the number
    of live chunks per frame and the cells that each owns. Frames are scaled to cover the model's camera and cropped to
    their centre, as by 'hnet data import folder'.

    Examples:

    hnet viz chunks --video street.mp4 --model fetch-reach

    hnet viz chunks --data data/fetch-reach --episode 3 --checkpoint outputs/action
    """
    from dataclasses import asdict

    from hnet_vjepa.checkpoint import load_checkpoint
    from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
    from hnet_vjepa.viz.chunk_video import render_chunk_video

    path = chosen_checkpoint(checkpoint, model)
    source = _frame_source(video, data, episode, frames)
    loaded = load_checkpoint(path)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    rendered = render_chunk_video(loaded.model, source)
    statistics = rendered.track.statistics()
    print(f"{source.name}: live chunks per frame: {statistics}")
    # "footage" is the file format's name for the clip.
    described = {**asdict(statistics), "footage": source.name, "counts": rendered.track.counts.tolist()}
    write_json_atomic(out / "chunks.json", {**described, "model": model or str(path), "weights": loaded.fingerprint})
    for name, content in (("chunks.mp4", rendered.mp4), ("chunks.gif", rendered.gif), ("chunks.png", rendered.png)):
        write_bytes_atomic(out / name, content)
        print(f"wrote {out / name}")


def _frame_source(video: Path | None, data: Path | None, episode: int | None, max_frames: int) -> FrameSource:
    """The clip to draw. Raises UserError unless exactly one of --video and --data is given."""
    from hnet_vjepa.data.store import EpisodeStore
    from hnet_vjepa.errors import UserError
    from hnet_vjepa.viz.frame_source import episode_source, video_source

    if (video is None) == (data is None):
        raise UserError("give either --video, a file, or --data, a data set" + (", not both" if video else ""))
    if video is not None:
        if episode is not None:
            raise UserError("--episode is for --data; a --video is one clip")
        return video_source(video, max_frames)
    assert data is not None
    store = EpisodeStore(data)
    return episode_source(store, store.episodes[0].index if episode is None else episode, max_frames)
