"""Camera images on the wire: base64 text of a PNG or JPEG file."""

from __future__ import annotations

import base64
import binascii
import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import CameraSpec

MAX_IMAGE_CHARS = 12 * 2**20  # of base64, so 9 MiB of file: a raw 2048 x 1536 picture
MODES = ("RGB", "RGBA", "L", "P", "1", "LA")  # eight bits a channel or less; the others would lose or invent values


def encode_image(frame: NDArray[np.uint8]) -> str:
    """Return ``frame`` (H x W x 3 uint8) as base64 text of a PNG file, which keeps every pixel.

    The last results are cached, because a robot sends the same goal at each step and each frame again as the past
    of the next one. The key is the content, so a camera may reuse its buffer. Raises UserError for other arrays.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise UserError(f"an image must be H x W x 3 of type uint8; got {frame.shape} of type {frame.dtype}")
    return _encode_bytes(frame.tobytes(), frame.shape[0], frame.shape[1])


@functools.lru_cache(maxsize=16)
def _encode_bytes(pixels: bytes, height: int, width: int) -> str:
    stream = io.BytesIO()
    # Level 1: higher levels take several times as long and compress noisy camera images hardly better.
    Image.frombytes("RGB", (width, height), pixels).save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def decode_image(text: str, camera: CameraSpec) -> NDArray[np.uint8]:
    """Return the picture in ``text`` (base64 of a PNG or JPEG file) as H x W x 3 uint8.

    The length of the text and the size in the file's header are checked before any pixel is decompressed, so that a
    decompression bomb is refused. Raises UserError for anything that is not an intact image of the camera's size.
    """
    if len(text) > MAX_IMAGE_CHARS:
        raise UserError(f"image of {len(text)} characters; at most {MAX_IMAGE_CHARS} are read")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("not base64; send the bytes of a PNG or JPEG file as base64 text") from None
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise UserError(f"image of too many pixels; this camera gives {camera.height} x {camera.width}") from None
    except Exception:  # Pillow raises a dozen types for broken headers
        raise UserError("neither a PNG nor a JPEG file") from None
    with image:
        if image.size != (camera.width, camera.height):
            raise UserError(
                f"image of {image.size[1]} x {image.size[0]} pixels (height x width); "
                f"this camera gives {camera.height} x {camera.width}"
            )
        if image.mode not in MODES:
            raise UserError(f"image of mode {image.mode}; send 8-bit RGB")
        try:
            return np.array(image.convert("RGB"))  # a copy: torch warns about read-only arrays
        except Exception:  # truncated or corrupt data: OSError, SyntaxError, ValueError, ...
            raise UserError("the image file is truncated or corrupt") from None
