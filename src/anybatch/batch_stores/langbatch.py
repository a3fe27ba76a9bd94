"""langbatch's storages and queues, taken by what they do: nothing of langbatch is imported.

With them delivery is at least once: neither half can say whether a write of somebody else's came
between, so one process at a time uses them.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import attrs

from .._backoff import DEFECTS
from .._exceptions import StorageDamaged
from ..abc import BatchQueueLike, BatchStorageLike
from .files import Draft, StoreLock, WriteOnceFiles


@attrs.frozen
class StorageBytes:
    """The bytes of batches in a langbatch `BatchStorage`. Every method blocks.

    Args:
        storage: langbatch's, or anything with its `save` and `load`.
        staging: where files are made before they are saved.
    """

    storage: BatchStorageLike
    staging: WriteOnceFiles

    def draft(self) -> Draft:
        return self.staging.draft()

    def keep(self, batch_id: str, draft: Draft) -> None:
        """Save it, unless it is there; checked before and after.

        Raises:
            StorageDamaged: what the storage has is not what was written.
        """
        draft.seal()
        if self.path(batch_id) is None:
            self.storage.save(batch_id, draft.path, {"platform_batch_id": None})
        stored = self.path(batch_id)
        if stored is None or not filecmp.cmp(draft.path, stored, shallow=False):
            size = stored.stat().st_size if stored is not None else 0
            raise StorageDamaged(
                f"{type(self.storage).__name__} has {size} bytes for batch {batch_id!r} that are "
                f"not the {draft.size} that were written; remove that batch from the storage"
            )

    def path(self, batch_id: str) -> Path | None:
        found = self._load(batch_id)
        return found[0] if found is not None else None

    def platform_id(self, batch_id: str) -> str | None:
        """The id that langbatch's own handler stored with the batch.

        Raises:
            StorageDamaged: the metadata is a pickle, which is not read.
        """
        found = self._load(batch_id)
        if found is None:
            return None
        if found[1].suffix == ".pkl":
            raise StorageDamaged(
                f"the metadata of batch {batch_id!r} is a pickle, which could run anything; "
                "save the batch with JSON metadata"
            )
        metadata: Any = json.loads(found[1].read_bytes())
        value = cast("dict[str, Any]", metadata).get("platform_batch_id")
        return None if value is None else str(value)

    def discard(self, batch_id: str) -> None:
        """The storage is the user's: what is in it stays."""

    def _load(self, batch_id: str) -> tuple[Path, Path] | None:
        try:
            data, metadata = self.storage.load(batch_id)
        except DEFECTS:
            raise
        except Exception:  # noqa: BLE001 - each storage has an error of its own for "not here"
            return None
        return (Path(data), Path(metadata)) if Path(data).is_file() else None


class LiveList:
    """A langbatch `BatchQueue`: read on entering, rewritten as the list of live ids. Blocking.

    Args:
        queue: langbatch's, or anything with its `save` and `load`.
    """

    def __init__(self, queue: BatchQueueLike) -> None:
        self._queue = queue
        self._lock = _lock_beside(queue)

    def acquire(self) -> None:
        """Take the lock beside the file, where there is one.

        Raises:
            StoreInUse: somebody else has it.
        """
        if self._lock is not None:
            self._lock.acquire()

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()

    def load(self) -> tuple[list[str], list[str]]:
        """Ids that are pending and ids that are processing, each once, in order."""
        listed = self._queue.load()
        return _once(listed.get("pending", ())), _once(listed.get("processing", ()))

    def save(self, queues: dict[str, list[str]]) -> None:
        """Write the live ids."""
        self._queue.save(queues)


def _once(ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def _lock_beside(queue: BatchQueueLike) -> StoreLock | None:
    path = getattr(queue, "file_path", None)
    if path is None:
        return None
    return StoreLock(Path(f"{path}.lock"), "give batch_queue= another file")
