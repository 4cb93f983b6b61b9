"""``hnet viz chunks``: tracking the chunks of a clip, and the video, GIF and sheet that show them."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import cli.main
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.video import fit
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.viz.chunk_sheet import palette
from hnet_vjepa.viz.chunk_video import COUNTS, GAP, SHARES, TITLE, FrameRenderer, render_chunk_video, timeline
from hnet_vjepa.viz.frame_source import FrameSource, episode_source, video_source
from hnet_vjepa.viz.tracking import ChunkTrack, match_chunks, track_chunks
from tests import toy
from tests.cli.test_errors import refused
from tests.data.test_video import write_video


def clip(frames: int) -> np.ndarray:
    """T x H x W x 3: the toy square on its way."""
    return np.stack([toy.picture(6 + 20 * t / frames, 10 + 8 * t / frames) for t in range(frames)])


def moving_video(path: Path, frames: int = 9, height: int = 54, width: int = 90) -> Path:
    """A video, wider than high, of a bright column that moves over grey."""
    pictures = np.full((frames, height, width, 3), 90, np.uint8)
    for t, picture in enumerate(pictures):
        picture[:, 20 + 5 * t : 30 + 5 * t] = (240, 180, 20)
    write_video(path, "libx264", pictures)
    return path


def made_track(owners: np.ndarray, prototypes: int) -> ChunkTrack:
    """The track of T x H' x W' owners, with all centroids in the middle."""
    live = np.stack([np.isin(np.arange(prototypes), frame) for frame in owners])
    return ChunkTrack(owners, np.zeros((len(owners), prototypes, 2), np.float32), live)


def test_frame_by_frame_is_the_whole_clip_at_once() -> None:
    """More frames than one batch, through blocks that attend to earlier frames: tests the encoder cache."""
    torch.manual_seed(0)
    backbone = HNetViT(toy.config().model.backbone).eval()
    frames = clip(37)
    tracked = track_chunks(backbone, iter(frames))
    with torch.no_grad():
        whole = backbone(normalise_frames(frames)[None])
    assert np.array_equal(tracked.owners.reshape(37, -1), whole.assignment[0].argmax(-1).numpy())
    np.testing.assert_allclose(tracked.centroids, whole.chunk_centroids[0, ..., 1:].numpy(), atol=1e-5)
    assert tracked.counts.tolist() == [len(np.unique(owners)) for owners in tracked.owners]


frames_of_cells = st.lists(st.lists(st.integers(0, 6), min_size=9, max_size=9), min_size=1, max_size=8)


@settings(deadline=None)
@given(frames_of_cells, st.permutations(range(7)))
def test_merged_chunks_keep_their_index(frames: list[list[int]], order: list[int]) -> None:
    """Matching renumbers chunks without splitting or merging any, and an unchanged chunk keeps its index."""
    owners = np.array(frames).reshape(-1, 3, 3)
    plain = made_track(owners, 7)
    plain.centroids[:] = np.arange(7)[:, None] + 10 * np.arange(len(owners))[:, None, None]
    tracked = match_chunks(plain)
    for t, (before, now) in enumerate(zip(owners, tracked.owners, strict=True)):
        assert np.array_equal(before[:, :, None, None] == before, now[:, :, None, None] == now)
        assert np.array_equal(np.flatnonzero(tracked.live[t]), np.unique(now))
        for number, old in zip(now.ravel(), before.ravel(), strict=True):
            assert tracked.centroids[t, number, 0] == plain.centroids[t, old, 0]
        if t:
            cells = [frozenset(np.flatnonzero(tracked.owners[t - 1] == k)) for k in range(7)]
            for k in np.unique(now):
                same = frozenset(np.flatnonzero(now == k))
                assert same not in cells or cells.index(same) == k
    still = np.stack([owners[0], np.array(order)[owners[0]]])  # the same chunks with permuted indices
    assert np.array_equal(match_chunks(made_track(still, 7)).owners[1], owners[0])


def test_chunks_under_a_budget_are_matched() -> None:
    torch.manual_seed(0)
    config = toy.config().model.backbone
    budget = config.model_copy(update={"routing": config.routing.model_copy(update={"tokens": 4.0})})
    backbone = HNetViT(budget).train()
    backbone(normalise_frames(clip(37))[None])  # sets the threshold
    tracked = track_chunks(backbone.eval(), iter(clip(37)))
    with torch.no_grad():
        owners = backbone(normalise_frames(clip(37))[None]).assignment[0].argmax(-1).numpy()
    again = match_chunks(made_track(owners.reshape(tracked.owners.shape), tracked.live.shape[1]))
    assert np.array_equal(tracked.owners, again.owners)
    assert tracked.counts.max() < 9 and tracked.counts.tolist() == [len(np.unique(frame)) for frame in owners]


def test_no_frames_are_no_track() -> None:
    with pytest.raises(ValueError, match="no frames"):
        track_chunks(HNetViT(toy.config().model.backbone), iter(()))


@given(st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=12))
def test_the_statistics_against_their_definition(frames: list[list[int]]) -> None:
    found = made_track(np.array(frames).reshape(-1, 2, 2), 7).statistics()
    counts = [len(set(owners)) for owners in frames]
    assert (found.least, found.most) == (min(counts), max(counts))
    assert found.median == statistics.median(counts)
    assert found.mean == pytest.approx(statistics.fmean(counts))
    assert (found.frames, found.prototypes) == (len(frames), 7)


def test_colours_are_stable_and_distinct() -> None:
    colours = palette(49)
    assert np.array_equal(palette(25), colours[:25])
    numbers = np.arange(49)
    between = np.abs(numbers[:, None] - numbers)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert apart[between > 0].min() > 0.03
    assert apart[(between > 0) & (between < 14)].min() > 0.25  # what touches on a grid of prototypes


def test_the_timeline_shows_counts_and_shares() -> None:
    owners = np.zeros((4, 2, 4), np.int64)
    owners[1, 0] = 3
    owners[2] = [[0, 1, 2, 3], [4, 5, 6, 7]]
    owners[3, :, 0] = 5
    pixels = np.asarray(timeline(made_track(owners, 8), 200))
    counts, shares = pixels[TITLE : TITLE + COUNTS], pixels[2 * TITLE + COUNTS :]
    assert len(shares) == SHARES
    for t, expected in enumerate([1, 2, 8, 2]):
        column = 50 * t + 25
        dark = counts[:, column].max(-1) < 200
        assert dark.sum() == COUNTS * expected // 8
        assert dark[len(dark) - dark.sum() :].all()  # from the bottom up
        for k in range(8):
            colour = (palette(8)[k] * 255).astype(np.uint8)
            rows = (shares[:, column] == colour).all(-1).sum()
            assert rows == SHARES * (owners[t] == k).sum() // 8


def test_a_drawn_frame_shows_the_frame_its_chunks_and_the_time() -> None:
    owners = np.zeros((5, 2, 4), np.int64)
    owners[:, :, 2:] = 1
    track = made_track(owners, 2)
    track.centroids[:, 0], track.centroids[:, 1] = (-0.5, -0.25), (0.5, 0.5)
    frame = np.full((48, 64, 3), 100, np.uint8)
    renderer = FrameRenderer(track, (48, 64))
    pixels = np.asarray(renderer.draw(3, frame)).astype(int)
    assert pixels.shape[:2] == renderer.size
    assert (pixels[TITLE : TITLE + 48, :64] == 100).all()
    painted = pixels[TITLE : TITLE + 48, 64 + GAP :]
    colours = palette(2) * 255
    for row, column, k in ((40, 10, 0), (6, 50, 1)):
        np.testing.assert_allclose(painted[row, column], 60 + 0.4 * colours[k], atol=1.5)
    for k, (y, x) in enumerate(((12, 24), (36, 48))):  # the dots
        np.testing.assert_allclose(painted[y, x], colours[k], atol=1.5)
    assert painted[:, 31:33].max(-1).min() < 40  # the boundary
    first, now = (np.asarray(renderer.draw(t, frame))[TITLE + 48 :].astype(int) for t in (0, 3))
    changed = np.flatnonzero((first != now).any((0, 2)))
    assert set(changed) <= {*range(11, 17), *range(91, 97)}  # middles of the first and the fourth of 5 parts of 134
    assert {13, 93} <= set(changed)


def test_the_video_of_a_clip_of_another_shape(toy_run: Path, tmp_path: Path) -> None:
    model = load_checkpoint(toy_run / "pretrain").model
    source = video_source(moving_video(tmp_path / "a.mp4"), 7)
    rendered = render_chunk_video(model, source, progress=False)
    (tmp_path / "chunks.mp4").write_bytes(rendered.mp4)
    with av.open(str(tmp_path / "chunks.mp4")) as container:
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 5
    assert len(drawn) == len(rendered.track.owners) == 7
    for t, picture in enumerate(source.frames()):
        left = drawn[t][TITLE : TITLE + 224, :280].astype(int)
        assert np.abs(left - fit(picture, (224, 280)).astype(int)).mean() < 6
    for data, format in ((rendered.gif, "GIF"), (rendered.png, "PNG")):
        (tmp_path / "picture").write_bytes(data)
        with Image.open(tmp_path / "picture") as picture:
            assert picture.format == format
            assert getattr(picture, "n_frames", 1) == (7 if format == "GIF" else 1)
    tracked = track_chunks(model.backbone, (fit(picture, toy.SHAPE[:2]) for picture in source.frames()))
    assert np.array_equal(tracked.owners, rendered.track.owners)


def test_an_episode_is_shown_as_it_was_recorded(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    source = episode_source(store, 3, 5)
    assert source.fps == pytest.approx(10)
    for _ in range(2):
        assert np.array_equal(np.stack([np.asarray(p) for p in source.frames()]), store.episodes[3].frames[:5])


def test_one_frame_is_enough(toy_run: Path) -> None:
    model = load_checkpoint(toy_run / "pretrain").model
    source = FrameSource("one", 10.0, lambda: iter([Image.fromarray(toy.picture(10, 10))]))
    assert render_chunk_video(model, source, progress=False).track.statistics().frames == 1


def test_the_command(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    words = ["viz", "chunks", "--checkpoint", str(toy_run / "action"), "--out", str(tmp_path / "out")]
    for more in (["--video", str(moving_video(tmp_path / "a.mp4"))], ["--data", str(toy_store), "--episode", "4"]):
        done = CliRunner().invoke(cli.main.app, [*words, *more])
        assert done.exit_code == 0, done.output
        described = json.loads((tmp_path / "out" / "chunks.json").read_text())
        counts = described["counts"]
        shown = f"{min(counts)} at least, {statistics.median(counts):g} in the median, {max(counts)} at most"
        assert f"live chunks per frame: {shown} ({len(counts)} frames, 9 prototypes)" in done.stdout
        assert {p.name for p in (tmp_path / "out").iterdir()} == {
            "chunks.mp4",
            "chunks.gif",
            "chunks.png",
            "chunks.json",
        }


def test_bad_input_is_refused_in_one_line(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    video = str(moving_video(tmp_path / "a.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    shutil.copytree(toy_run / "action", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / "file").write_text("in the way")
    good = ["--checkpoint", str(toy_run / "action")]
    for words, says in (
        (["--video", str(tmp_path / "none.mp4"), *good], "there is no file"),
        (["--video", str(tmp_path), *good], "is a directory; name a video file"),
        (["--video", str(tmp_path / "text.mp4"), *good], "text.mp4 is not a readable video"),
        (good, "give either --video, a file, or --data, a data set"),
        (["--video", video, "--data", str(toy_store), *good], "not both"),
        (["--video", video, "--episode", "1", *good], "--episode is for --data"),
        (["--data", str(toy_store), "--episode", "77", *good], "has no episode 77; it has 20, from 0 to 19"),
        (["--data", str(tmp_path), *good], "is not a data set"),
        (["--video", video], "give --checkpoint"),
        (["--video", video, "--model", "nothing"], "nothing"),
        (["--video", video, "--checkpoint", str(tmp_path)], "is not a checkpoint"),
        (["--video", video, "--checkpoint", str(tmp_path / "damaged")], "its SHA-256 differs"),
        (["--video", video, *good, "--out", str(tmp_path / "file" / "out")], "cannot write"),
    ):
        assert says in refused("viz", "chunks", "--out", str(tmp_path / "out"), *words)


def test_a_video_without_frames_or_with_sound_alone_is_refused(toy_run: Path, tmp_path: Path) -> None:
    model = load_checkpoint(toy_run / "pretrain").model
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="has no video stream"):
        render_chunk_video(model, video_source(tmp_path / "sound.mkv", 9), progress=False)
    whole = moving_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.mp4 is "):
        render_chunk_video(model, video_source(tmp_path / "cut.mp4", 9), progress=False)
