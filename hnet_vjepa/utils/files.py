"""Atomic writes: a crash, a kill or a full disk never leaves a partial file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hnet_vjepa.errors import UserError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or the user's limit allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EEXIST: "a part of the path is a file, not a directory",
    errno.EISDIR: "it is a directory",
    errno.ENAMETOOLONG: "the name is too long",
}
STALE_AFTER = 3600.0  # seconds; no writer leaves a temporary file or directory untouched for an hour


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'disk full', 'read-only', 'no permission' and the like into one clear UserError about ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise UserError(f"cannot write {path}: {REASONS[error.errno]}; what was there before is untouched") from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: readers see the old file or the new one, never a part.

    Raises UserError when the disk is full or not writable.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON in one step (see write_bytes_atomic)."""
    write_bytes_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def directory_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``path`` when the block ends without an error.

    An existing ``path`` is replaced only then: in one step where the system can swap two names (Linux), elsewhere
    by two renames. Raises UserError when the disk is full or not writable.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _sync(Path(folder) / name)
                _sync(Path(folder))
            _put_in_place(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Delete what writers that were killed left in ``folder``: temporary files and directories an hour old."""
    for left in folder.glob(".*.tmp-*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < STALE_AFTER:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(files: Iterable[Path], root: Path) -> str:
    """Short hash of the names (relative to ``root``) and contents of files: tells one set of sources from another.

    Raises UserError when a file can not be read.
    """
    digest = hashlib.sha256()
    try:
        for name, file in sorted((str(file.relative_to(root)), file) for file in set(files)):
            digest.update(json.dumps([name, sha256(file)]).encode())
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _temporary(path: Path) -> Path:
    """An unused name beside ``path``; it starts with a dot, so that readers ignore it."""
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(6)}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Give the directory ``temporary`` the name ``path``; what had that name is left under ``temporary``."""
    if not path.exists():
        temporary.replace(path)
    elif not _exchange(temporary, path):
        previous = _temporary(path)
        path.replace(previous)
        try:
            temporary.replace(path)
        except BaseException:
            previous.replace(path)
            raise
        previous.replace(temporary)


def _exchange(first: Path, second: Path) -> bool:
    """Swap the names of two paths in one step; return False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
