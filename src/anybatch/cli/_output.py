"""OUTPUT: one row for each line that has its end, appended, and on disk before it counts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

import attrs
import msgspec

from .._exceptions import RequestFailed
from .._models import Answer
from .._threads import run_sync
from ._errors import UsageError

SLICE = 2_000
"""Rows that are written and synced together."""


@attrs.frozen
class Row:
    """How a line ended, in the form of OpenAI's output files.

    Args:
        line: the line's number in INPUT.
        custom_id: the request's, as the user knows it; None: the line was no request.
        response: `status_code` and `body`, or None.
        error: `code` and `message`, or None.
    """

    line: int
    custom_id: str | None
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @classmethod
    def of(cls, line: int, custom_id: str, end: Answer | RequestFailed) -> Row:
        """The row of a request that has its end."""
        if isinstance(end, RequestFailed):
            return cls(line, custom_id, None, {"code": end.code, "message": end.message})
        return cls(line, custom_id, {"status_code": 200, "body": dict(end)})

    @classmethod
    def invalid(cls, line: int, message: str) -> Row:
        """The row of a line that was not sent."""
        return cls(line, None, None, {"code": "invalid_request", "message": message})


def append(file: FileIO, data: bytes) -> None:
    """Write all of it, and return when it is on disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


class _Seen(msgspec.Struct):
    line: int
    error: msgspec.Raw = msgspec.Raw(b"null")


class Output:
    """The file, open for appending. Its methods may be called from any thread.

    Opening cuts off a last line that a kill has torn, and reads which lines have their rows.

    Args:
        path: where; made if it is not there.

    Attributes:
        failed: how many of its rows are errors.

    Raises:
        UsageError: if it cannot be opened, or holds something else than rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._lines: set[int] = set()
        self.failed = 0
        try:
            self._file = FileIO(path, "a+")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._size = self._take_up()
        except BaseException:
            self._file.close()
            raise

    def __contains__(self, line: int) -> bool:
        return line in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def close(self) -> None:
        """Close the file; again: nothing happens."""
        with self._lock:
            self._file.close()

    async def write(self, rows: Iterable[Row]) -> None:
        """Append the rows of lines that have none, and return when they are on disk.

        Raises:
            OSError: the disk is full, or worse; what was not written is not there in part either.
        """
        batch = list(rows)
        for start in range(0, len(batch), SLICE):
            await run_sync(self._append, batch[start : start + SLICE])

    def _append(self, rows: list[Row]) -> None:
        # The lock is a thread's: a task that is cancelled natively leaves its thread writing.
        with self._lock:
            new = {row.line: row for row in rows if row.line not in self._lines}
            text = b"".join(msgspec.json.encode(attrs.asdict(row)) + b"\n" for row in new.values())
            if not text:
                return
            try:
                append(self._file, text)
            except OSError:
                self._file.truncate(self._size)
                raise
            self._size += len(text)
            self._lines.update(new)
            self.failed += sum(row.error is not None for row in new.values())

    def _take_up(self) -> int:
        size, number = 0, 0
        with self._path.open("rb") as rows:
            for number, row in enumerate(rows, 1):
                if not row.endswith(b"\n"):
                    break
                self._note(number, row)
                size += len(row)
        self._file.truncate(size)
        return size

    def _note(self, number: int, text: bytes) -> None:
        try:
            seen = msgspec.json.decode(text, type=_Seen)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise UsageError(
                f"line {number} of {self._path} is no row of a run ({error}); name another file "
                "with -o, or move this one away"
            ) from error
        self._lines.add(seen.line)
        self.failed += bytes(seen.error) != b"null"
