"""The output and the error file of a batch that has ended, put together from its log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any

import orjson
from attrs import define

from ._context import Context
from ._rows import RowLog
from ._slices import Breather
from .records import BatchRecord, FileRecord

_UNFINISHED = {
    "cancelled": (
        "batch_cancelled",
        "This request was not executed because the batch was cancelled.",
    ),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}

Lines = Iterator[bytes | None]
"""Lines of a file, and None for each row that does not belong there: looking takes time too."""


async def write_files(context: Context, batch_id: str, log: RowLog) -> dict[str, Any]:
    """Write the files of a batch; again, after a kill in the middle: writes the same files.

    Args:
        context: where the batch is.
        batch_id: which one.
        log: its rows.

    Returns:
        What the batch's record says of them: ids (None for a file without lines), counts, usage.
    """
    record = context.store.batches[batch_id]
    ending = "cancelled" if record.status == "cancelling" else record.ending
    known = {"counts": log.counts(record.counts.total), "usage": log.usage}
    if ending != "completed" and not record.fault.keep_rows:
        return known
    writer = _Writer(context, record, ending, log)
    return {
        **known,
        "output_file_id": await writer.write("output"),
        "error_file_id": await writer.write("error"),
    }


@define(eq=False)
class _Writer:
    context: Context
    record: BatchRecord
    ending: str
    log: RowLog

    async def write(self, kind: str) -> str | None:
        """Write one of the two files and return its id, the same each time."""
        digest = hashlib.sha256(f"{self.record.id} {kind}".encode()).hexdigest()
        file_id = f"file-{digest[:24]}"
        path = self.context.store.incoming(file_id)
        size = await self._fill(path, self._output() if kind == "output" else self._errors())
        if not size:
            path.unlink()
            return None
        now, lifetime = int(time.time()), self.record.output_expires_after
        file = FileRecord(
            id=file_id,
            number=self.context.store.next_file_number(),
            filename=f"{self.record.id}_{kind}.jsonl",
            purpose="batch_output",
            bytes=size,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self.context.store.add_file(file, path)
        return file_id

    async def _fill(self, path: Path, lines: Lines) -> int:
        breather = Breather()
        with path.open("wb") as file:  # noqa: ASYNC230 - the page cache, a slice at a time
            for line in lines:
                if line is not None:
                    file.write(b"\n" + line if file.tell() else line)
                if breather.due():
                    await breather.breathe()
            if file.tell() and self.record.fault.final_newline:
                file.write(b"\n")
            return file.tell()

    def _output(self) -> Lines:
        for position in self._order():
            place = self.log.place(position)
            line = self.log.read(position).line if place in ("output", "twice") else None
            yield line
            if place == "twice":
                yield line

    def _errors(self) -> Lines:
        for position in self._order():
            is_here = self.log.place(position) == "error"
            yield self.log.read(position).line if is_here else None
        if self.ending != "completed" and self.record.fault.list_rest:
            yield from self._unfinished()

    def _order(self) -> Iterator[int]:
        """Yield the rows' positions: in another order than executed, the same each time."""
        count = len(self.log)
        step = _coprime_to(count) if self.context.shuffle else 1
        begin = count // 2 if self.context.shuffle else 0
        for position in range(count):
            yield (begin + position * step) % count

    def _unfinished(self) -> Lines:
        code, message = _UNFINISHED[self.ending]
        for index, line in enumerate(self.context.store.requests(self.record.id)):
            custom_id = None if index in self.log.done else _custom_id(line)
            if custom_id is None:
                yield None
                continue
            row = {
                "id": f"batch_req_{self.record.id.removeprefix('batch_')[:16]}{index:08x}",
                "custom_id": custom_id,
                "response": None,
                "error": {"code": code, "message": message},
            }
            yield orjson.dumps(row)


def _coprime_to(count: int) -> int:
    """Return a step that visits each of `count` positions once, going around, far apart."""
    step = int(count * 0.618) or 1
    while gcd(step, count) != 1:
        step += 1
    return step


def _custom_id(line: bytes) -> str | None:
    """Return a line's id; None where there is none, in a file that was never validated."""
    try:
        request = orjson.loads(line)
        return str(request["custom_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
