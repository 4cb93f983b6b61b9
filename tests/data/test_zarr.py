"""Zarr v2 replay buffers, written here with the codecs of the format; and the real one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from tests.data.recordings import clock_picture, clock_time, imported, real, walk

numcodecs = pytest.importorskip("numcodecs")
ENDS = [5, 6 + 5, 18]
BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}


def write_array(folder: Path, array: NDArray[Any], chunks: tuple[int, ...], codec: dict[str, Any] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = {"zarr_format": 2, "shape": array.shape, "chunks": chunks, "dtype": array.dtype.str, "compressor": codec}
    (folder / ".zarray").write_text(json.dumps({**header, "filters": None, "fill_value": 0, "order": "C"}))
    counts = [-(-size // chunk) for size, chunk in zip(array.shape, chunks, strict=True)]
    for place in np.ndindex(*counts):
        part = np.zeros(chunks, array.dtype)
        box = array[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks, strict=True))]
        part[tuple(slice(size) for size in box.shape)] = box
        data = part.tobytes() if codec is None else numcodecs.get_codec(dict(codec)).encode(part)
        if box.any():  # a chunk of zeros is left out
            (folder / ".".join(map(str, place))).write_bytes(bytes(data))


def replay(root: Path, codec: dict[str, Any] | None = BLOSC, scale: float = 1.0) -> Path:
    """Three episodes; row t of all shows t / 10 s; the state is a path, the action where it goes next."""
    path = walk(ENDS[-1] + 1, 2).astype(np.float32) * 100 + 256
    pictures = np.stack([clock_picture(t / 10) for t in range(ENDS[-1])]).astype(np.float32) * scale
    write_array(root / "data" / "img", pictures, (4, 64, 40, 3), codec)
    write_array(root / "data" / "state", path[:-1], (7, 2), codec)
    write_array(root / "data" / "action", path[1:], (7, 2), codec)
    write_array(root / "meta" / "episode_ends", np.array(ENDS), (2,), codec)
    return root


@pytest.mark.parametrize(
    ("codec", "scale", "zipped"),
    [(BLOSC, 1.0, False), (None, 1 / 255, True), ({"id": "zstd", "level": 1}, 1.0, True), ({"id": "gzip"}, 1.0, False)],
)
def test_a_replay_buffer(tmp_path: Path, codec: dict[str, Any] | None, scale: float, zipped: bool) -> None:
    root = replay(tmp_path / "a.zarr", codec, scale)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "a.zarr.zip"
    store, notes = imported("zarr", root, tmp_path / "store")
    assert [len(e) for e in store.episodes] == [5, 6, 7]
    shown = [clock_time(np.asarray(frame)) for e in store.episodes for frame in e.frames]
    assert shown == pytest.approx([t / 10 for t in range(18)])
    path = walk(19, 2).astype(np.float32) * 100 + 256
    np.testing.assert_array_equal(store.episodes[1].actions, path[6:11])
    assert store.info.action.absolute == (0, 1) and store.info.camera.dt == pytest.approx(0.1)
    assert any("taken as 10 rows per second" in note for note in notes)


def test_damage_is_named(tmp_path: Path) -> None:
    root = replay(tmp_path / "a.zarr")
    header = root / "data" / "img" / ".zarray"
    told = json.loads(header.read_text())
    header.write_text(json.dumps({**told, "compressor": {"id": "pickle"}}))
    with pytest.raises(UserError, match=r"data/img is compressed by pickle; read are blosc"):
        imported("zarr", root, tmp_path / "store")
    header.write_text(json.dumps({**told, "zarr_format": 3}))
    with pytest.raises(UserError, match="data/img is of Zarr version 3; version 2 is read"):
        imported("zarr", root, tmp_path / "store")
    header.write_text(json.dumps(told))
    write_array(root / "meta" / "episode_ends", np.array([5, 20]), (2,), BLOSC)
    with pytest.raises(UserError, match="data/img has 18 rows, but the last episode ends at 20"):
        imported("zarr", root, tmp_path / "store")
    root = replay(tmp_path / "b.zarr")
    (root / "data" / "img" / "2.0.1.0").write_bytes(b"damage")
    with pytest.raises(UserError, match=r"chunk data/img/2\.0\.1\.0 is damaged"):
        imported("zarr", root, tmp_path / "store")
    with pytest.raises(UserError, match="is neither a folder nor a zip file"):
        imported("zarr", tmp_path / "nothing", tmp_path / "store")


@pytest.mark.slow
def test_the_real_demonstrations() -> None:
    from hnet_vjepa.data.importers.registry import format_named
    from hnet_vjepa.data.importers.track_source import TrackSource
    from hnet_vjepa.data.importers.tracks import ImportOptions

    options = ImportOptions(size=(96, 96))
    source = TrackSource(format_named("zarr").read(real("pusht_human_demos.zarr"), options), options)
    assert (len(source.survey.lengths), sum(source.survey.lengths)) == (206, 25_650)
    assert source.survey.action.absolute == (0, 1)
    episode = next(source.decode([3]))
    assert episode.frames.shape == (159, 96, 96, 3) and episode.frames[0].std() > 10
