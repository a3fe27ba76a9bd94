"""Where a local provider keeps files, batches, executed rows, and a journal of what was asked.

::

    files/<id>.json   files/<id>.data      a file's record and its bytes
    batches/<id>.json batches/<id>.rows    a batch's record and its executed rows
    incoming/                              what is being uploaded or put together
    journal.jsonl                          each call
    lock

A durable store writes each record safely before it is seen, so that whatever a client was told
is true after a kill. A temporary one keeps records in memory only.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import anyio
import msgspec
import orjson

from .._threads import run_sync
from . import _disk
from ._rows import RowLog, read_rows
from .records import BatchRecord, FileRecord
from .statistics import Ledger

RecordT = TypeVar("RecordT")


class Store:
    """The disk of one local provider, and its records in memory.

    Args:
        directory: where; made by `open`.
        durable: whether it shall outlive the process.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.durable = durable
        self.ledger: Ledger = Ledger()
        self.files: dict[str, FileRecord] = {}
        self.batches: dict[str, BatchRecord] = {}
        self._file_number = 0
        self._writing = anyio.Lock()
        self._lock: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None

    async def open(self) -> None:
        """Make the directory, take its lock, and read what an earlier life left.

        Raises:
            RuntimeError: if another provider uses the directory.
        """
        if self.durable:
            await run_sync(self._open)
        else:
            self._open()

    def _open(self) -> None:
        for name in ("files", "batches", "incoming"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        if self.durable:
            self._lock = _disk.lock(self.directory / "lock")
            self._clean()
            self._load()
            self._journal = (self.directory / "journal.jsonl").open("ab")

    def close(self) -> None:
        """Let go of the directory. Again: nothing happens."""
        for file in (self._journal, self._lock):
            if file is not None:
                file.close()

    def _clean(self) -> None:
        for path in (self.directory / "incoming").iterdir():
            path.unlink()
        # Bytes come first, and their record last: without one they were never seen.
        for pattern in ("files/*.data", "batches/*.input"):
            for path in self.directory.glob(pattern):
                if not path.with_suffix(".json").exists():
                    path.unlink()

    def _load(self) -> None:
        files = [_read(path, FileRecord) for path in (self.directory / "files").glob("*.json")]
        self.files = {record.id: record for record in sorted(files, key=lambda r: r.number)}
        self._file_number = max((record.number for record in files), default=0)
        batches = [_read(path, BatchRecord) for path in (self.directory / "batches").glob("*.json")]
        self.batches = {record.id: record for record in sorted(batches, key=lambda r: r.number)}
        self._replay()

    def _replay(self) -> None:
        for _ in self.batches:
            self.ledger.create()
        for path in (self.directory / "batches").glob("*.rows"):
            for row in read_rows(path):
                self.ledger.row(row)
        journal = self.directory / "journal.jsonl"
        if journal.exists():
            with journal.open("r+b") as file:
                self._replay_journal(file)

    def _replay_journal(self, file: IO[bytes]) -> None:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            self.ledger.note(orjson.loads(line))
            end += len(line)
        file.truncate(end)

    def note(self, **event: Any) -> None:
        """Append to the journal: `route` and what else is known of a call, or an `event`."""
        self.ledger.note(event)
        if self._journal is not None:
            self._journal.write(orjson.dumps({"time": time.time(), **event}) + b"\n")
            self._journal.flush()

    def next_file_number(self) -> int:
        """Return a number for a file, larger than all before."""
        self._file_number += 1
        return self._file_number

    def incoming(self, name: str) -> Path:
        """Return a path for bytes that are not a file yet."""
        return self.directory / "incoming" / f"{name}.part"

    def content(self, file_id: str) -> Path:
        """Return the path of a file's bytes. Its id is one of ours, never a client's text."""
        return self.directory / "files" / f"{file_id}.data"

    def keep_input(self, batch_id: str, file_id: str) -> None:
        """Keep a file's bytes for a batch, which then does not mind if the file is deleted."""
        if file_id not in self.files:
            return
        try:
            self._input(batch_id).hardlink_to(self.content(file_id))
        except OSError:  # a file system without hard links
            shutil.copyfile(self.content(file_id), self._input(batch_id))

    def input_lines(self, batch_id: str) -> Iterator[bytes] | None:
        """Return the lines that a batch is made of; None if its file did not exist.

        Read as they are needed, from the page cache: the caller gives way between them.
        """
        path = self._input(batch_id)
        return _lines(path) if path.exists() else None

    def requests(self, batch_id: str) -> Iterator[bytes]:
        """Return the lines that are not blank; none if the batch's file did not exist."""
        return (line for line in self.input_lines(batch_id) or () if line.strip())

    def drop_input(self, batch_id: str) -> None:
        """Forget the bytes kept for a batch, which has ended."""
        self._input(batch_id).unlink(missing_ok=True)

    def _input(self, batch_id: str) -> Path:
        return self.directory / "batches" / f"{batch_id}.input"

    def _rows(self, batch_id: str) -> Path:
        return self.directory / "batches" / f"{batch_id}.rows"

    def row_log(self, batch_id: str) -> RowLog:
        """Open the log of a batch's executed rows."""
        return RowLog(self._rows(batch_id))

    async def add_file(self, record: FileRecord, temporary: Path) -> None:
        """Take in a file whose bytes are at `temporary`; it is seen when it is safe."""
        if self.durable:
            await run_sync(self._add_file, record, temporary)
        else:
            temporary.replace(self.content(record.id))  # noqa: ASYNC240 - a rename takes no time
        self.files[record.id] = record

    def _add_file(self, record: FileRecord, temporary: Path) -> None:
        _disk.adopt(temporary, self.content(record.id))
        meta = self.directory / "files" / f"{record.id}.json"
        _disk.write_safely(meta, msgspec.json.encode(record))

    def drop_file(self, file_id: str) -> None:
        """Forget a file and its bytes."""
        del self.files[file_id]
        (self.directory / "files" / f"{file_id}.json").unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    async def add_batch(self, make: Callable[[int], BatchRecord]) -> BatchRecord:
        """Take in a new batch, made from its number; it is seen when it is safe."""
        async with self._writing:
            record = make(len(self.batches) + 1)
            await self._save(record)
            self.batches[record.id] = record
            self.ledger.create()
        return record

    async def change(
        self, batch_id: str, change: Callable[[BatchRecord], BatchRecord]
    ) -> BatchRecord:
        """Replace a batch's record by `change(record)`, one change at a time; seen when safe."""
        async with self._writing:
            record = change(self.batches[batch_id])
            await self._save(record)
            self.batches[batch_id] = record
        return record

    async def _save(self, record: BatchRecord) -> None:
        if self.durable:
            path = self.directory / "batches" / f"{record.id}.json"
            await run_sync(_disk.write_safely, path, msgspec.json.encode(record))

    def count(self, batch_id: str, **changes: Any) -> None:
        """Change what of a record is not kept on disk while the batch runs: counts and usage."""
        self.batches[batch_id] = msgspec.structs.replace(self.batches[batch_id], **changes)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _read(path: Path, kind: type[RecordT]) -> RecordT:
    return msgspec.json.decode(path.read_bytes(), type=kind)
