"""ROS image messages to RGB pixels. Encodings that are no colour or grey pictures of 8 bits are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.video import decode_picture
from hnet_vjepa.errors import UserError

CHANNELS = {
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), 3),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), 4),
    **dict.fromkeys(("mono8", "8UC1"), 1),
}
BAYER = {"bayer_rggb8": "RGGB", "bayer_bggr8": "BGGR", "bayer_gbrg8": "GBRG", "bayer_grbg8": "GRBG"}
READ = (*CHANNELS, *BAYER, "mono16")


def is_depth(message: Any) -> bool:
    """Whether a message is a depth picture, which has no colours."""
    encoding = str(getattr(message, "encoding", "") or getattr(message, "format", ""))
    return encoding in ("16UC1", "32FC1") or "compressedDepth" in encoding


def pixels(message: Any, where: str) -> NDArray[np.uint8]:
    """A sensor_msgs Image or CompressedImage as H x W x 3. Raises UserError when it is damaged or not read."""
    if is_depth(message):
        raise UserError(f"{where} is a depth picture; choose a colour camera with --camera TOPIC")
    if hasattr(message, "format"):
        return np.asarray(decode_picture(bytes(message.data), where), np.uint8)
    height, width, step, encoding = message.height, message.width, message.step, message.encoding
    deep = encoding == "mono16"
    channels = CHANNELS.get(encoding, 1)
    if encoding not in READ:
        raise UserError(f"{where} has the encoding {encoding}; read are {', '.join(READ)}")
    need = width * channels * (2 if deep else 1)
    data = np.frombuffer(bytes(message.data), np.uint8)
    if step < need or len(data) < step * height:
        raise UserError(f"{where} has {len(data)} bytes for {height} x {width} pixels of {encoding}")
    rows = data[: step * height].reshape(height, step)[:, :need]
    if deep:
        rows = np.ascontiguousarray(rows).view(">u2" if message.is_bigendian else "<u2") // 256
    if encoding in BAYER:
        return _demosaic(rows, BAYER[encoding])
    picture = rows.reshape(height, width, channels).astype(np.uint8)
    if channels == 1:
        return picture.repeat(3, 2)
    return np.ascontiguousarray(picture[..., :3] if encoding.startswith("rgb") else picture[..., 2::-1])


def _demosaic(rows: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    """Each 2 x 2 cell of a Bayer picture becomes one colour (greens averaged), shown by its four pixels."""
    height, width = rows.shape[0] // 2 * 2, rows.shape[1] // 2 * 2
    cells = rows[:height, :width].astype(np.uint16).reshape(height // 2, 2, width // 2, 2)
    by_place = {place: cells[:, place // 2, :, place % 2] for place in range(4)}
    colours = [np.mean([by_place[p] for p in range(4) if pattern[p] == name], axis=0) for name in "RGB"]
    return np.stack(colours, -1).astype(np.uint8).repeat(2, 0).repeat(2, 1)
