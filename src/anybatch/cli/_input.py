"""INPUT in slices of numbered lines: a file, or standard input."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import anyio

from .._threads import run_sync
from ._errors import UsageError

CHUNK = 1 << 18
"""Bytes that one read asks for."""

_BOM = b"\xef\xbb\xbf"


class LineSplitter:
    r"""Cuts bytes into lines, at ``\n`` alone, and counts them from 1.

    Unicode knows more line ends than JSON Lines does: a U+2028 inside a string is none. A byte
    order mark before the first line and a carriage return at the end of any are taken off.
    """

    def __init__(self) -> None:
        self._number = 0
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """The lines that this chunk completes, with their numbers."""
        *complete, rest = chunk.split(b"\n")
        lines: list[tuple[int, bytes]] = []
        for piece in complete:
            self._pieces.append(piece)
            lines.append(self._next())
        self._pieces.append(rest)
        return lines

    def finish(self) -> list[tuple[int, bytes]]:
        """The last line, if the input does not end with a newline."""
        return [self._next()] if any(self._pieces) else []

    def _next(self) -> tuple[int, bytes]:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(_BOM)
        return self._number, line.removesuffix(b"\r")


class Source:
    """INPUT, open: ``async with Source(path) as source``, then `read` until it returns None.

    Args:
        path: a file; None: standard input.

    Raises:
        UsageError: on entering, if the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._splitter = LineSplitter()
        self._file = -1
        self._ended = False

    async def __aenter__(self) -> Self:
        if self._path is None:
            self._file = sys.stdin.fileno()
            return self
        try:
            self._file = await run_sync(os.open, self._path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read: {error.strerror}") from error
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._path is not None:
            os.close(self._file)

    async def read(self) -> list[tuple[int, bytes]] | None:
        """The next lines with their numbers, perhaps none of them yet; None at the end."""
        if self._ended:
            return None
        chunk = await self._read_chunk()
        if chunk:
            return self._splitter.feed(chunk)
        self._ended = True
        return self._splitter.finish()

    async def _read_chunk(self) -> bytes:
        if self._path is None and sys.platform != "win32":
            # A thread in a read that nobody can interrupt would outlast Ctrl-C.
            # epoll refuses regular files, and needs none: their reads do not wait.
            with suppress(PermissionError):
                await anyio.wait_readable(self._file)
        try:
            return await run_sync(os.read, self._file, CHUNK)
        except OSError as error:
            raise UsageError(f"{self._path or 'stdin'} cannot be read: {error.strerror}") from error
