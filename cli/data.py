"""``hnet data``: collect, import and inspect episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Collect, import and inspect episodes.", no_args_is_help=True)


@app.command("collect")
def collect_episodes(
    task: Annotated[str, typer.Option(help="Which simulated robot; 'hnet sims list' shows them.")] = "fetch-reach",
    episodes: Annotated[int, typer.Option(help="How many episodes; 1000 are enough for a first model.")] = 1000,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same episodes, whatever the number of workers.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the new data set.")] = Path("data/fetch-reach"),
    workers: Annotated[int | None, typer.Option(help="Processes; by default one per CPU core.")] = None,
) -> None:
    """Collect episodes of a simulated robot: frames, actions, true states, captions and labels.

    Interrupted? Run the same command again: it goes on where it stopped. No evaluation ever uses a collected episode.

    Example: hnet data collect --task fetch-reach --episodes 1000 --seed 0 --out data/fetch-reach --workers 2
    """
    from sims.collect import collect

    print(f"collected {episodes} episodes in {collect(task, episodes, seed, out, workers)}")
