"""Arrays of Zarr version 2 in a folder or a zip file: JSON headers and compressed chunks, read by rows."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.errors import UserError

# Named one by one: others of the package run code of the file (pickle) or are not for numbers.
CODECS = ("blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "shuffle", "delta")


class ZarrFiles:
    """The files of a Zarr hierarchy by their names. Raises UserError when there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() and zipfile.is_zipfile(path) else None
        if self._zip is None and not path.is_dir():
            raise UserError(f"{path} is neither a folder nor a zip file; give the Zarr replay buffer")

    def read(self, name: str) -> bytes | None:
        """A file's content, or None when there is none of that name."""
        try:
            return self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        except (KeyError, FileNotFoundError):
            return None
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {self.path}: {name} ({error})") from error

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays of a group."""
        if self._zip:
            names = [n.removeprefix(f"{group}/") for n in self._zip.namelist() if n.startswith(f"{group}/")]
            return sorted(n.removesuffix("/.zarray") for n in names if n.endswith("/.zarray") and n.count("/") == 1)
        return sorted(file.parent.name for file in (self.path / group).glob("*/.zarray"))

    def files(self) -> list[Path]:
        """All files, for the fingerprint."""
        return [self.path] if self._zip else [file for file in self.path.rglob("*") if file.is_file()]


class ZarrArray:
    """One array, chunked along its first axis (and perhaps others). ``shape`` and ``dtype`` are those stored.

    Raises UserError when its header is missing, or of a version, type or codec that is not read.
    """

    def __init__(self, files: ZarrFiles, name: str) -> None:
        self._files, self.name, self.where = files, name, f"{files.path}: {name}"
        header = files.read(f"{name}/.zarray")
        if header is None:
            raise UserError(f"{self.where} is missing")
        try:
            told: Mapping[str, Any] = json.loads(header)
            version, self.dtype = told["zarr_format"], np.dtype(told["dtype"])
            self.shape, self._chunks = tuple(told["shape"]), tuple(told["chunks"])
            self._fill, self._order = told["fill_value"] or 0, told["order"]
            self._separator = told.get("dimension_separator", ".")
            codecs = [*(told.get("filters") or []), *([told["compressor"]] if told["compressor"] else [])]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.where} has a damaged header ({error})") from error
        if version != 2:
            raise UserError(f"{self.where} is of Zarr version {version}; version 2 is read")
        if self.dtype.hasobject:
            raise UserError(f"{self.where} holds Python objects, which are not read")
        if unknown := [codec["id"] for codec in codecs if codec["id"] not in CODECS]:
            raise UserError(f"{self.where} is compressed by {unknown[0]}; read are {', '.join(CODECS)}")
        self._codecs = [need("numcodecs", "Zarr arrays").get_codec(codec) for codec in codecs]
        self._rows = lru_cache(maxsize=2)(self._band)

    def __len__(self) -> int:
        return int(self.shape[0])

    def read(self, rows: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Some rows, or all: N x the other axes. Raises UserError when a chunk is damaged."""
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        bands = wanted // self._chunks[0]
        for band in np.unique(bands):
            here = np.flatnonzero(bands == band)
            out[here] = self._rows(int(band))[wanted[here] - band * self._chunks[0]]
        return out

    def _band(self, number: int) -> NDArray[Any]:
        """All chunks with this number along the first axis, as one array."""
        counts = [math.ceil(size / chunk) for size, chunk in zip(self.shape[1:], self._chunks[1:], strict=True)]
        band = np.empty((self._chunks[0], *(c * n for c, n in zip(counts, self._chunks[1:], strict=True))), self.dtype)
        for place in np.ndindex(*counts):
            box = tuple(slice(p * n, (p + 1) * n) for p, n in zip(place, self._chunks[1:], strict=True))
            band[(slice(None), *box)] = self._chunk((number, *place))
        return band[(slice(None), *(slice(size) for size in self.shape[1:]))]

    def _chunk(self, place: tuple[int, ...]) -> NDArray[Any]:
        name = f"{self.name}/{self._separator.join(map(str, place))}"
        data: Any = self._files.read(name)
        if data is None:  # chunks of nothing but the fill value may be left out
            return np.full(self._chunks, self._fill, self.dtype)
        try:
            for codec in reversed(self._codecs):
                data = codec.decode(data)
            flat = np.frombuffer(np.ascontiguousarray(data).tobytes(), self.dtype)
            return flat.reshape(self._chunks, order=self._order)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self._files.path}: chunk {name} is damaged ({error})") from error
