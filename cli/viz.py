"""``hnet viz``: what the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.models import MODEL_HELP, chosen_checkpoint

if TYPE_CHECKING:
    from hnet_vjepa.viz.frame_source import Footage

app = typer.Typer(help="See what the model sees.", no_args_is_help=True)


@app.callback()
def viz() -> None:
    """See what the model sees."""


@app.command("chunks")
def chunks(
    video: Annotated[Path | None, typer.Option(help="A video file of any size and length.")] = None,
    data: Annotated[Path | None, typer.Option(help="Or a data set, of which one episode is shown.")] = None,
    episode: Annotated[int | None, typer.Option(help="Number of the episode in --data; by default its first.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint of any phase.")] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many frames to look at, from the first.")] = 300,
    out: Annotated[Path, typer.Option(help="Directory for chunks.mp4, chunks.gif, chunks.png and chunks.json.")] = Path(
        "outputs/chunks"
    ),
) -> None:
    """Film which parts of the picture the model takes together, and say how many chunks the frames have.

    A chunk keeps its colour over time. Dots are centroids, larger for larger chunks; below are the number of live
    chunks per frame and the cells each owns. Pictures are scaled to cover the model's camera and their middle is cut
    out, as with 'hnet data import folder'.

    Examples:

    hnet viz chunks --video street.mp4 --model fetch-reach

    hnet viz chunks --data data/fetch-reach --episode 3 --checkpoint outputs/action
    """
    from dataclasses import asdict

    from hnet_vjepa.checkpoint import load_checkpoint
    from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
    from hnet_vjepa.viz.chunk_video import film_chunks

    source = chosen_checkpoint(checkpoint, model)
    footage = _footage(video, data, episode, frames)
    loaded = load_checkpoint(source)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    made = film_chunks(loaded.model, footage)
    found = made.seen.distribution()
    print(f"{footage.name}: live chunks per frame: {found}")
    described = {**asdict(found), "footage": footage.name, "counts": made.seen.counts.tolist()}
    write_json_atomic(out / "chunks.json", {**described, "model": model or str(source), "weights": loaded.fingerprint})
    for name, content in (("chunks.mp4", made.mp4), ("chunks.gif", made.gif), ("chunks.png", made.png)):
        write_bytes_atomic(out / name, content)
        print(f"wrote {out / name}")


def _footage(video: Path | None, data: Path | None, episode: int | None, most: int) -> Footage:
    """What is to be filmed. Raises UserError unless exactly one of --video and --data is given."""
    from hnet_vjepa.data.store import EpisodeStore
    from hnet_vjepa.errors import UserError
    from hnet_vjepa.viz.frame_source import episode_footage, video_footage

    if (video is None) == (data is None):
        raise UserError("give either --video, a file, or --data, a data set" + (", not both" if video else ""))
    if video is not None:
        if episode is not None:
            raise UserError("--episode is for --data; a --video is one clip")
        return video_footage(video, most)
    assert data is not None
    store = EpisodeStore(data)
    return episode_footage(store, store.episodes[0].index if episode is None else episode, most)
