"""Files and directories are written whole or not at all, whatever stops the writer."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils import files
from hnet_vjepa.utils.files import (
    content_hash,
    directory_atomic,
    remove_stale,
    sha256,
    write_bytes_atomic,
    write_json_atomic,
)

SIZE = 200_000


def _write_directory(path: Path, byte: int) -> None:
    with directory_atomic(path) as folder:
        (folder / "one").write_bytes(bytes([byte]) * SIZE)
        (folder / "deeper").mkdir()
        (folder / "deeper" / "two").write_bytes(bytes([byte]) * SIZE)


def _killed_while(write: Callable[[int], None], after: float) -> None:
    """Start a process that calls ``write(1), write(2), ...`` until it is killed ``after`` seconds later."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:  # never returns to pytest
        try:
            write(0)
            os.write(started, b"x")
            for number in range(1, 1_000_000):
                write(number % 256)
        finally:
            os._exit(1)
    os.read(ready, 1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ready)
    os.close(started)
    assert os.WIFSIGNALED(status), "the writer stopped by itself"


def _whole(file: Path) -> int:
    data = file.read_bytes()
    assert len(data) == SIZE
    assert len(set(data)) == 1
    return data[0]


def test_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    for attempt in range(20):
        _killed_while(lambda byte: write_bytes_atomic(path, bytes([byte]) * SIZE), attempt * 0.0007)
        _whole(path)


def test_killed_writer_leaves_the_old_or_the_new_directory(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for attempt in range(20):
        _killed_while(lambda byte: _write_directory(path, byte), attempt * 0.0013)
        assert _whole(path / "one") == _whole(path / "deeper" / "two")


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    stale, fresh = tmp_path / ".state.tmp-0123", tmp_path / ".state.tmp-4567"
    for folder in (stale, fresh):
        folder.mkdir()
        (folder / "half").write_bytes(b"half")
    os.utime(stale, (0, 0))
    (tmp_path / ".keep").touch()
    remove_stale(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".keep", ".state.tmp-4567"]
    remove_stale(tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG])
def test_disk_errors_keep_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path, folder = tmp_path / "a.json", tmp_path / "directory"
    write_json_atomic(path, {"x": 1})
    _write_directory(folder, 7)

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="cannot write") as caught:
        write_json_atomic(path, {"x": 2})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot write"):
        _write_directory(folder, 8)
    assert path.read_text() == '{\n  "x": 1\n}\n'
    assert _whole(folder / "one") == 7
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "directory"]


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nonsense"), directory_atomic(tmp_path / "a"):
        raise OSError(errno.EINVAL, "nonsense")
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        write_bytes_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(UserError, match="is a file"), directory_atomic(tmp_path / "file" / "deeper" / "below"):
        pass


def test_a_directory_is_replaced_without_the_systems_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    for byte in (1, 2):
        _write_directory(tmp_path / "a", byte)
        assert _whole(tmp_path / "a" / "deeper" / "two") == byte
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_block_that_fails_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    _write_directory(tmp_path / "a", 1)
    with pytest.raises(RuntimeError), directory_atomic(tmp_path / "a") as folder:
        (folder / "one").write_bytes(b"other")
        raise RuntimeError
    assert _whole(tmp_path / "a" / "one") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_bytes_atomic(tmp_path / "private", b"")
        _write_directory(tmp_path / "folder", 0)
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "b").write_bytes(b"abc")
    both = [tmp_path / "a", tmp_path / "b"]
    assert content_hash(both, tmp_path) == content_hash(both[::-1], tmp_path)
    before = content_hash(both, tmp_path)
    (tmp_path / "b").write_bytes(b"abd")  # of the same size
    assert content_hash(both, tmp_path) != before
