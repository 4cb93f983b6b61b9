"""Importing RLDS episodes: made ones with known content, and real ones where they lie beside the checkout."""

from __future__ import annotations

import io
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hnet_vjepa.data.importers import base
from hnet_vjepa.data.importers.rlds import import_rlds
from hnet_vjepa.data.store import EpisodeStore, plan_shards
from hnet_vjepa.errors import UserError
from tests.data.recordings import real
from tests.data.test_tfrecord import Value, encode_example, frame_record


def picture(level: int, size: tuple[int, int] = (16, 12), kind: str = "JPEG") -> bytes:
    """A picture of width x height: grey of this level, with a brighter left half."""
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[:, : size[0] // 2] += 40
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def episode(number: int, length: int, instruction: str = "Put it, there.") -> dict[str, Value]:
    """Step t shows level 10 t + number; its action is t in every number, its state number."""
    return {
        "steps/observation/image_0": [picture(10 * t + number) for t in range(length)],
        "steps/observation/image_1": [picture(0, kind="PNG") for t in range(length)],
        "steps/observation/state": [float(number)] * 7 * length,
        "steps/action": [float(t) for t in range(length) for _ in range(7)],
        "steps/language_instruction": [instruction.encode()] * length,
        "steps/is_first": [int(t == 0) for t in range(length)],
    }


def write(path: Path, episodes: list[dict[str, Value]]) -> Path:
    path.write_bytes(b"".join(frame_record(encode_example(e)) for e in episodes))
    return path


def quiet(path: Path, out: Path, **options: object) -> EpisodeStore:
    return EpisodeStore(import_rlds(path, out, progress=False, **options))  # type: ignore[arg-type]


def test_import_aligns_frames_actions_states_and_words(tmp_path: Path) -> None:
    texts = ["Put it, there.", "put it there", "", "open the drawer"]
    path = write(tmp_path / "a.tfrecord", [episode(n, 3 + n, text) for n, text in enumerate(texts)])
    store = quiet(path, tmp_path / "store")
    assert store.info.source == "rlds"
    assert (store.info.camera.height, store.info.camera.width, store.info.camera.dt) == (12, 16, 0.2)
    assert store.info.labels == ("open-the-drawer", "put-it-there")
    assert store.info.states[-1] == "gripper [fraction]"
    for number, (imported, text) in enumerate(zip(store.episodes, texts, strict=True)):
        assert len(imported) == 3 + number
        for t, frame in enumerate(imported.frames):
            assert abs(int(frame[6, 12, 1]) - (10 * t + number)) <= 2
            assert abs(int(frame[6, 4, 1]) - (10 * t + number + 40)) <= 2  # left is left
        np.testing.assert_array_equal(imported.actions, np.arange(2 + number, dtype=np.float32)[:, None].repeat(7, 1))
        assert imported.states is not None and (imported.states == number).all()
        assert imported.captions == (((text,) if text else ()),) * len(imported)
        assert imported.labels is not None
        assert imported.labels[0].tolist() == [text.startswith("open"), text.lower().startswith("put")]
    assert store.info.action.low == (0.0,) * 7
    assert store.info.action.high == (4.0,) * 7  # the dropped last actions do not count
    assert store.info.action.active == tuple(range(7))


def test_pictures_are_fitted_to_the_size_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [episode(0, 3)])
    frames = quiet(path, tmp_path / "store", size=(8, 8)).episodes[0].frames
    assert frames.shape == (3, 8, 8, 3)
    assert abs(int(frames[2, 4, 1, 0]) - 60) <= 3 and abs(int(frames[2, 4, 6, 0]) - 20) <= 3


def test_a_directory_is_imported_in_order_and_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "plan_shards", partial(plan_shards, target=2000))  # a shard holds one or two episodes
    source = tmp_path / "source"
    source.mkdir()
    (source / "dataset_info.json").touch()
    for file in range(3):
        write(source / f"x.tfrecord-{file:05d}-of-00003", [episode(2 * file + n, 3) for n in range(2)])
    store = quiet(source, tmp_path / "store")
    assert store.info.shards == 6
    assert [int(e.states[0, 0]) for e in store.episodes if e.states is not None] == list(range(6))
    for number in (1, 4):
        shutil.rmtree(tmp_path / "store" / "shards" / f"{number:05d}")
    assert quiet(source, tmp_path / "store").fingerprint() == store.fingerprint()
    write(source / "x.tfrecord-00002-of-00003", [episode(4, 4)])
    with pytest.raises(UserError, match="holds other episodes"):
        quiet(source, tmp_path / "store")


def test_unusable_episodes_are_left_out_and_said(tmp_path: Path) -> None:
    blank = episode(1, 3)
    blank["steps/observation/image_0"] = [_flat() for _ in range(3)]
    path = write(tmp_path / "a.tfrecord", [episode(0, 3), blank, episode(2, 1), episode(3, 4)])
    notes: list[str] = []
    store = quiet(path, tmp_path / "store", report=notes.append)
    assert [len(e) for e in store.episodes] == [3, 4]
    assert len(notes) == 1 and "2 episodes are left out" in notes[0] and "record 1: image_0 shows nothing" in notes[0]


def _flat() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12)).save(stream, "PNG")
    return stream.getvalue()


def test_a_copy_of_an_episode_is_left_out_and_said(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "a.tfrecord", [episode(0, 3), episode(1, 3), episode(0, 3)])
    store = quiet(path, tmp_path / "store", report=notes.append)
    assert [float(e.states[0, 0]) for e in store.episodes if e.states is not None] == [0.0, 1.0]
    assert "1 episodes are left out" in notes[0] and "record 2: it is the same as" in notes[0]


def test_pictures_of_different_sizes_are_said_or_refused(tmp_path: Path) -> None:
    wide = picture(9, (16, 8))
    other = {**episode(1, 3), "steps/observation/image_0": [wide] * 3}
    notes: list[str] = []
    path = write(tmp_path / "a.tfrecord", [episode(0, 3), other])
    quiet(path, tmp_path / "store", report=notes.append)
    assert "different sizes" in notes[0] and "8 x 16 in 1" in notes[0] and "record 1" in notes[0]
    pictures = episode(1, 3)["steps/observation/image_0"]
    assert isinstance(pictures, list)
    mixed = {**episode(1, 3), "steps/observation/image_0": [*pictures[:2], wide]}
    with pytest.raises(UserError, match=r"record 0: picture 0 has .* but picture 2 has 8 x 16 pixels"):
        quiet(write(tmp_path / "b.tfrecord", [mixed]), tmp_path / "mixed")


def test_labels_are_bounded(tmp_path: Path) -> None:
    episodes = [episode(n, 2, f"task {n}") for n in range(70)]
    notes: list[str] = []
    store = quiet(write(tmp_path / "a.tfrecord", episodes), tmp_path / "store", report=notes.append)
    assert len(store.info.labels) == 64
    assert "70 different instructions, 64 labels" in notes[0]


def test_episodes_without_words_and_states(tmp_path: Path) -> None:
    bare = {name: values for name, values in episode(0, 3).items() if "state" not in name and "language" not in name}
    store = quiet(write(tmp_path / "a.tfrecord", [bare]), tmp_path / "store")
    assert store.info.labels == store.info.states == ()
    assert store.episodes[0].captions == ((), (), ())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"steps/action": [0.0] * 6 * 3}, "needs 7 per step"),
        ({"steps/action": [0.0] * 20}, "20 numbers for 3 steps"),
        ({"steps/action": []}, "needs 7 per step"),
        ({"steps/action": [b"x"] * 3}, "holds text"),
        ({"steps/action": [float("nan")] * 21}, "NaN"),
        ({"steps/observation/state": [float("inf")] * 21}, "infinity"),
        ({"steps/observation/image_0": [b"no picture"] * 3}, "not a readable picture"),
        ({"steps/observation/image_0": [picture(3), picture(4)[:-60], b""]}, "record 1: picture 1 is not a readable"),
        ({"steps/language_instruction": [b"a"] * 2}, "2 texts for 3 steps"),
    ],
)
def test_wrong_records_are_refused_by_number(tmp_path: Path, change: dict[str, Value], complaint: str) -> None:
    path = write(tmp_path / "a.tfrecord", [episode(0, 3), {**episode(1, 3), **change}])
    with pytest.raises(UserError, match=complaint) as caught:
        quiet(path, tmp_path / "store")
    assert "a.tfrecord: record 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [episode(0, 3)])
    with pytest.raises(UserError, match="unknown camera 'wrist'; choose one of: image_0, image_1"):
        quiet(path, tmp_path / "store", camera="wrist")
    with pytest.raises(UserError, match="does not exist"):
        quiet(tmp_path / "b.tfrecord", tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.tfrecord files"):
        quiet(tmp_path / "empty", tmp_path / "store")
    with pytest.raises(UserError, match="no records"):
        quiet(write(tmp_path / "none.tfrecord", []), tmp_path / "store")
    with pytest.raises(UserError, match="not an RLDS episode"):
        quiet(write(tmp_path / "other.tfrecord", [{"x": [1.0]}]), tmp_path / "store")
    (tmp_path / "garbage.tfrecord").write_bytes(frame_record(b"\xff\xff\xff"))
    with pytest.raises(UserError, match="record 0 is not an episode"):
        quiet(tmp_path / "garbage.tfrecord", tmp_path / "store")
    (tmp_path / "text.tfrecord").write_text("this is no TFRecord file at all")
    with pytest.raises(UserError, match="not a TFRecord file"):
        quiet(tmp_path / "text.tfrecord", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_real_bridge_episodes(tmp_path: Path) -> None:
    store = quiet(real("bridge_sample.tfrecord"), tmp_path / "store")
    store.verify()
    assert [len(e) for e in store.episodes] == [10] * 25
    assert len(store.split("held_out")) == 2
    assert store.info.labels == (
        "flip-pot-upright-which-is-in-sink",
        "put-carrot-on-plate",
        "put-cup-from-counter-or-drying-rack-into-sink",
        "turn-lever-vertical-to-front",
    )
    assert all(e.labels is not None and (e.labels.sum(1) == 1).all() for e in store.episodes)
    # action[t] moves step t to t + 1: it fits this difference of the states best, not that of the step before.
    actions = np.stack([e.actions for e in store.episodes])[:, 1:, :3]
    states = np.stack([e.states for e in store.episodes if e.states is not None])[..., :3]
    moved = np.diff(states, axis=1)
    now, before = (np.corrcoef(actions.ravel(), m.ravel())[0, 1] for m in (moved[:, 1:], moved[:, :-1]))
    assert now > 0.8 > before
    # Pictures are real ones: neighbouring frames are alike, episodes are not.
    frames = np.stack([e.frames for e in store.episodes]).astype(float)
    assert np.abs(np.diff(frames, axis=1)).mean() < 0.3 * np.abs(np.diff(frames[:, 0], axis=0)).mean()
