"""Decoding videos and pictures that the test encodes itself."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hnet_vjepa.data.video import decode_picture, find_recording, fit, parse_size, read_pictures, read_video
from hnet_vjepa.errors import UserError

CODECS = [("libx264", "a.mp4"), ("mpeg4", "a.avi"), ("libvpx-vp9", "a.webm"), ("mpeg4", "a.mkv")]
LEVELS = (30, 90, 150, 210, 60)


def moving_frames(levels: tuple[int, ...] = LEVELS, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """T x H x W x 3: frame t is grey of level t, its upper left quarter red."""
    frames = np.repeat(np.array(levels, np.uint8), height * width * 3).reshape(len(levels), height, width, 3)
    frames[:, : height // 2, : width // 2] = (220, 20, 20)
    return frames


def write_video(path: Path, codec: str, frames: NDArray[np.uint8]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if codec == "libvpx-vp9":
            stream.options = {"cpu-used": "8", "deadline": "realtime", "crf": "10"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def write_pictures(folder: Path, frames: NDArray[np.uint8], pattern: str = "{:04d}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / pattern.format(number))


def assert_alike(decoded: NDArray[np.uint8], levels: tuple[int, ...] = LEVELS) -> None:
    assert len(decoded) == len(levels)
    height, width = decoded.shape[1:3]
    for frame, level in zip(decoded.astype(int), levels, strict=True):
        assert abs(frame[3 * height // 4, 3 * width // 4] - level).max() < 12
        assert abs(frame[height // 4, width // 4] - (220, 20, 20)).max() < 40  # red, not blue


@pytest.mark.parametrize(("codec", "name"), CODECS)
def test_every_frame_comes_in_order_and_in_colour(tmp_path: Path, codec: str, name: str) -> None:
    write_video(tmp_path / name, codec, moving_frames())
    for size in ((48, 64), (24, 32)):
        decoded = read_video(tmp_path / name, size)
        assert decoded.shape == (len(LEVELS), *size, 3) and decoded.dtype == np.uint8
        assert_alike(decoded)


def test_a_video_that_was_filmed_upright_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, "libx264", moving_frames())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8  # flags, times and number, reserved, layer to volume
    one = 1 << 16
    assert int.from_bytes(data[matrix : matrix + 4], "big") == one
    for place, value in enumerate((0, one, 0, -one, 0, 0)):  # a telephone's: shown a quarter turned clockwise
        data[matrix + 4 * place : matrix + 4 * place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    first = read_video(path, (64, 48))[0].astype(int)
    assert abs(first[16, 36] - (220, 20, 20)).max() < 40  # upper right now
    assert abs(first[16, 12] - LEVELS[0]).max() < 12


def test_unreadable_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.webm").touch()
    write_video(tmp_path / "whole.mp4", "libx264", moving_frames())
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:600])
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    for name in ("text.mp4", "empty.webm", "cut.mp4", "sound.mkv", "missing.mp4"):
        with pytest.raises(UserError, match=name) as caught:
            read_video(tmp_path / name, (8, 8))
        assert "\n" not in str(caught.value)


def test_pictures_are_ordered_by_number(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", moving_frames(tuple(range(0, 240, 20))), "frame {}.png")  # 10 after 9, not after 1
    assert_alike(read_pictures(tmp_path / "a", (24, 32)), tuple(range(0, 240, 20)))
    write_pictures(tmp_path / "b", moving_frames(), "{:03d}.jpg")
    assert_alike(read_pictures(tmp_path / "b", (48, 64)))


def test_wrong_pictures_are_refused(tmp_path: Path) -> None:
    for name, complaint in (
        ("missing", "number 2 is missing"),
        ("twice", "have the same number"),
        ("nameless", "no number"),
        ("broken", "0001.png is not a readable picture"),
        ("mixed", r"0000.png has 48 x 64 pixels but 0003.png has 24 x 64 pixels \(height x width\)"),
        ("none", "has no pictures"),
    ):
        folder = tmp_path / name
        write_pictures(folder, moving_frames())
        if name == "missing":
            (folder / "0002.png").unlink()
        elif name == "twice":
            (folder / "0002.png").rename(folder / "03.png")
        elif name == "nameless":
            (folder / "0002.png").rename(folder / "two.png")
        elif name == "broken":
            (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes()[:90])
        elif name == "mixed":
            write_pictures(folder, moving_frames(LEVELS[:1], 24), "0003.png")
        else:
            for file in folder.iterdir():
                file.unlink()
        with pytest.raises(UserError, match=complaint):
            read_pictures(folder, (24, 32))


def test_pictures_of_any_mode_become_rgb() -> None:
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK"):
        assert fit(Image.new(mode, (10, 10)), (8, 8)).shape == (8, 8, 3)
    with pytest.raises(UserError, match="here is not a readable picture"):
        decode_picture(b"", "here")
    deep = io.BytesIO()
    Image.new("I;16", (10, 10)).save(deep, "PNG")
    with pytest.raises(UserError, match="here has more than 8 bits"):
        decode_picture(deep.getvalue(), "here")


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(8, 40))
def test_fit_covers_and_cuts_the_middle(height: int, width: int, to_height: int, to_width: int) -> None:
    grid = np.zeros((height, width, 3), np.uint8)
    grid[..., 0] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    grid[..., 1] = np.linspace(0, 255, width).astype(np.uint8)
    out = fit(Image.fromarray(grid), (to_height, to_width)).astype(int)
    assert out.shape == (to_height, to_width, 3)
    if min(height, width) > 8:  # the middle stays the middle
        assert abs(out[..., 0].mean() - grid[..., 0].mean()) < 12
        assert abs(out[..., 1].mean() - grid[..., 1].mean()) < 12
    # One scale for both directions: the side that is not cut spans the whole picture, nothing is squashed.
    scale = min(height / to_height, width / to_width)
    for axis, side, to_side in ((0, height, to_height), (1, width, to_width)):
        if side > 30 and to_side > 12:
            span = out[..., axis].max() - out[..., axis].min()
            assert abs(span - 255 * scale * to_side / side) < 255 * (2 / to_side + 2 / side)


def test_sizes() -> None:
    assert parse_size("64") == (64, 64)
    assert parse_size(" 48x64 ") == (48, 64)
    for wrong in ("", "x", "64x", "64x64x3", "-64", "7", "4096", "64.0", "big"):
        with pytest.raises(UserError, match="give 64 for a square or 48x64"):
            parse_size(wrong)


def test_the_recording_is_found_or_must_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no recording; put a video"):
        find_recording(tmp_path, None)
    write_pictures(tmp_path, moving_frames())
    assert_alike(find_recording(tmp_path, None).read((24, 32)))
    write_pictures(tmp_path / "wrist", moving_frames(LEVELS[::-1]))
    write_video(tmp_path / "front.webm", "libvpx-vp9", moving_frames())
    with pytest.raises(UserError, match=r"several recordings \(front.webm, wrist, the pictures in it\); .*--camera"):
        find_recording(tmp_path, None)
    assert_alike(find_recording(tmp_path, "wrist").read((24, 32)), LEVELS[::-1])
    assert_alike(find_recording(tmp_path, "front").read((24, 32)))
    assert find_recording(tmp_path, "wrist").size() == find_recording(tmp_path, "front").size() == (48, 64)
    with pytest.raises(UserError, match="no recording named 'side'"):
        find_recording(tmp_path, "side")


def test_pictures_that_are_too_large_are_not_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(stream, "PNG")
    with pytest.raises(UserError, match="13000 x 13000 pixels; at most 50 million are read"):
        decode_picture(stream.getvalue(), "big.png")


def test_a_picture_taken_with_the_camera_on_its_side_stands_upright() -> None:
    """EXIF orientation 6: what is stored must be turned clockwise to be shown."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:, :8] = 255  # the left of what is stored is the top of the picture
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(stream, "JPEG", exif=exif, quality=95)
    shown = np.asarray(decode_picture(stream.getvalue(), "phone.jpg"))
    assert shown.shape == (24, 16, 3)
    assert shown[:6].mean() > 240 and shown[10:].mean() < 15


def test_grey_of_sixteen_bits(tmp_path: Path) -> None:
    """Pictures are refused by name, video is scaled to 8 bits: in neither are high bits cut off."""
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(ramp).save(stream, "PNG")
    with pytest.raises(UserError, match=r"depth\.png has more than 8 bits per channel"):
        decode_picture(stream.getvalue(), "depth.png")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        out = container.add_stream("ffv1", rate=10)
        out.width, out.height, out.pix_fmt = 64, 48, "gray16le"
        container.mux(out.encode(av.VideoFrame.from_ndarray(ramp, "gray16le")))
        container.mux(out.encode())
    frame = read_video(tmp_path / "a.mkv", (48, 64))[0, ..., 0]
    assert np.abs(frame.astype(int) - ramp // 257).max() <= 2
