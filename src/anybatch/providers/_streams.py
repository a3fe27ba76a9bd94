"""Bodies as streams: a batch file going out as a form, and a result file coming in as lines."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from io import BufferedReader
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx2

from .._exceptions import ProviderError
from .._threads import run_sync

LONGEST_ROW: Final = 256_000_000
"""Bytes of one result row. 2,048 embeddings of 3,072 numbers in one request are about 80 MB."""

_CHUNK: Final = 1 << 20  # bytes read in one visit to a thread


class Form:
    """A batch file as a multipart form, so that no more than a piece of it is in memory."""

    def __init__(self, name: str, expiry: int | None) -> None:
        boundary = os.urandom(16).hex()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        fields = {"purpose": "batch"}
        if expiry is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expiry)}
        start = f'--{boundary}\r\nContent-Disposition: form-data; name="'
        head = "".join(f'{start}{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
        head += f'{start}file"; filename="{quote(name)}"\r\n'
        head += "Content-Type: application/jsonl\r\n\r\n"
        self.head = head.encode()
        self.tail = f"\r\n--{boundary}--\r\n".encode()

    def length(self, size: int) -> int:
        """Bytes of the whole form around a file of this size."""
        return len(self.head) + size + len(self.tail)


class FormBody(httpx2.AsyncByteStream):
    """The form around its file, read in threads, a piece at a time.

    No generator: nobody closes the iteration of a body when its call is cancelled.
    """

    def __init__(self, form: Form, file: BufferedReader) -> None:
        self._file = file
        self._pending = form.head
        self._tail = form.tail

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._pending = self._pending, b""
        if not piece:
            piece = await run_sync(self._file.read, _CHUNK)
        if not piece:
            piece, self._tail = self._tail, b""
        if not piece:
            raise StopAsyncIteration
        return piece


def with_stream(request: httpx2.Request, stream: httpx2.AsyncByteStream) -> httpx2.Request:
    """The request with another body; `content=` would put a generator around it."""
    return httpx2.Request(
        request.method,
        request.url,
        headers=request.headers,
        stream=stream,
        extensions=request.extensions,
    )


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading. Blocking."""
    return path.open("rb")


async def body_lines(response: httpx2.Response, what: str) -> AsyncGenerator[bytes, None]:
    """The lines of a body as it arrives; the last one needs no newline."""
    pieces: list[bytes] = []  # of a line that is longer than a chunk
    size = 0
    async with aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                pieces.append(end)
                if line := b"".join(pieces).strip():
                    yield line  # noqa: ASYNC119 - read under aclosing()
                pieces, size = [], 0
            pieces.append(rest)
            size += len(rest)
            if size > LONGEST_ROW:
                raise ProviderError(f"{what}: a row of more than {LONGEST_ROW:,} bytes")
    if line := b"".join(pieces).strip():
        yield line
