"""Whether a store's files still are what was written: looked at once, and again when a file has changed.

A file is taken as verified while its size and time of change are those noted in ``.verified.json`` of the store's
directory; there a flipped bit of the disk goes unseen, which ``hnet data info --verify`` finds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import write_json_atomic

AT_ONCE = 2**30  # bytes: a store up to this size is verified before anything else, in about a second
NOTE = ".verified.json"


@contextlib.contextmanager
def verified(store: EpisodeStore) -> Iterator[Callable[[], None]]:
    """Verify a store beside the work of the block, which calls what this yields now and then.

    That call raises UserError, naming the file, when one is damaged; so do the beginning (of a small store) and the
    end of the block.
    """
    stamps = _stamps(store)
    if stamps == _noted(store):
        yield lambda: None
        return
    with ThreadPoolExecutor(1, "verify") as pool:
        result = pool.submit(_verify, store, stamps)
        if sum(size for size, _ in stamps.values()) <= AT_ONCE:
            result.result()

        def check() -> None:
            if result.done():
                result.result()

        yield check
        result.result()


def _verify(store: EpisodeStore, stamps: dict[str, tuple[int, int]]) -> None:
    store.verify()
    with contextlib.suppress(UserError):  # a store that may not be written is verified each time
        write_json_atomic(store.path / NOTE, stamps)


def _stamps(store: EpisodeStore) -> dict[str, tuple[int, int]]:
    """Size and time of change of every array file."""
    files = sorted((store.path / "shards").glob("*/*.npy"))
    told = [(file, file.stat()) for file in files]
    return {str(file.relative_to(store.path)): (stat.st_size, stat.st_mtime_ns) for file, stat in told}


def _noted(store: EpisodeStore) -> dict[str, tuple[int, int]] | None:
    try:
        told = json.loads((store.path / NOTE).read_bytes())
        return {str(name): (int(size), int(changed)) for name, (size, changed) in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
