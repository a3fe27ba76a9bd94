"""langbatch's own `BatchHandler` as a handler that our dispatcher hands batches to."""

from __future__ import annotations

import contextlib
import filecmp
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from anyio.lowlevel import checkpoint

from ._encoding import decode
from ._exceptions import RequestRejected, ResultUnavailable, StorageDamaged
from ._models import Accepted, Part
from ._threads import run_sync
from .providers import as_provider

_ELSEWHERE = (
    "langbatch's BatchHandler gives the results to its batch_process_func; the request is in batch"
    " {id}: use anybatch.BatchHandler for receipts that are answered"
)


class LangbatchHandler:
    """A langbatch `BatchHandler` for our dispatcher: at least once, and no answers to receipts.

    Nothing of langbatch's is taken from it: whoever has it runs its `run()`. A part is saved in
    its storage, compared with what was written, and then added to its queue; killed in between,
    the same part is saved again under the same id. There is no lock, so a second process on the
    same storage and queue is not kept out.

    Args:
        handler: langbatch's.
        position: from 1, where a dispatcher has several.
    """

    def __init__(self, handler: Any, position: int = 1) -> None:
        self._handler = handler
        self._provider: Any = as_provider(handler.batch_type, handler.batch_kwargs)
        self._position = position

    @property
    def store_id(self) -> str:
        """Its place among the dispatcher's handlers: its storage has no identity of its own."""
        return f"langbatch-{self._position}"

    @property
    def provider(self) -> Any:
        """What its batch class says of requests."""
        return self._provider

    @property
    def live_batches(self) -> int:
        """Batches in its two lists."""
        return sum(len(ids) for ids in self._handler.queues.values())

    def room(self) -> int | None:
        """None: it takes any number."""
        return None

    async def wait_room(self) -> None:
        """Return: there is room."""
        await checkpoint()

    @asynccontextmanager
    async def entered_for(self, _dispatcher: object) -> AsyncGenerator[LangbatchHandler]:
        """Nothing is opened or closed: langbatch's handler has no such states."""
        yield self

    async def accept(self, part: Part) -> Accepted:
        """Save a part in its storage, unless it is there, and add it to its queue.

        Cancelled, the part may be saved, but not added; the next `accept` of it adds it.

        Raises:
            StorageDamaged: the storage has other bytes under this id.
        """
        directory = Path(await run_sync(tempfile.mkdtemp))
        try:
            path = directory / f"{part.id}.jsonl"
            await _write(path, part)
            fresh, started = await run_sync(self._keep, part.id, path)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if not started and not self._listed(part.id):
            await self._handler.add_batch(part.id)
        for receipt in part.receipts.values():
            if not receipt.settled:
                receipt.abandon(_ELSEWHERE.format(id=part.id), kind=ResultUnavailable)
        return Accepted.NEW if fresh else Accepted.KNOWN

    def _listed(self, batch_id: str) -> bool:
        """Defect worked around: `add_batch` adds an id that is in its lists already once more."""
        return any(batch_id in ids for ids in self._handler.queues.values())

    def _keep(self, batch_id: str, path: Path) -> tuple[bool, bool]:
        """Whether it was saved now, and whether the stored one has been started. Blocking."""
        storage = self._handler.batch_storage
        stored = _load(storage, batch_id)
        fresh = stored is None
        if stored is None:
            self._provider.save(batch_id, path, storage)
            stored = _load(storage, batch_id)
        # Defect worked around: a copy cut short is kept for ever, and loaded without a word.
        if stored is None or not filecmp.cmp(path, stored[0], shallow=False):
            raise StorageDamaged(
                f"batch {batch_id}: the storage {type(storage).__name__} has other bytes than were"
                " written; remove its file, and the batch is saved again"
            )
        return fresh, not fresh and _was_started(batch_id, stored[1])


async def _write(path: Path, part: Part) -> None:
    with path.open("xb") as file:
        async with _closing(part.lines()) as chunks:
            async for chunk in chunks:
                await run_sync(file.write, b"".join(line + b"\n" for line in chunk))


@asynccontextmanager
async def _closing(
    chunks: AsyncIterator[Sequence[bytes]],
) -> AsyncGenerator[AsyncIterator[Sequence[bytes]]]:
    """Close an iteration that can be closed: a generator that is left open warns."""
    if not hasattr(chunks, "aclose"):
        yield chunks
        return
    async with contextlib.aclosing(cast("AsyncGenerator[Sequence[bytes], None]", chunks)):
        yield chunks


def _load(storage: Any, batch_id: str) -> tuple[Path, Path] | None:
    """The stored file and its metadata, or None where the storage does not have them."""
    try:
        data, metadata = storage.load(batch_id)
    except (LookupError, FileNotFoundError):
        return None
    except Exception as exc:
        # langbatch's BatchStorageError says only this, and is not imported for it.
        if any(cls.__name__ == "BatchStorageError" for cls in type(exc).__mro__):
            return None
        raise
    return Path(data), Path(metadata)


def _was_started(batch_id: str, metadata: Path) -> bool:
    """Whether the stored batch has a platform id. A pickle is not read: it could run anything."""
    try:
        return decode(metadata.read_bytes())["platform_batch_id"] is not None
    except (RequestRejected, LookupError, TypeError):
        raise StorageDamaged(
            f"batch {batch_id}: its metadata {metadata.name} cannot be read as JSON; remove it"
        ) from None
