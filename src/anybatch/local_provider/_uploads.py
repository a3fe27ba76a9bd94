"""Reading a `multipart/form-data` upload, straight to disk and checked on the way."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from attrs import define, field
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from .errors import ApiError

MAX_FIELD = 64 * 1024
"""Bytes of one form field that is no file."""


@define(eq=False)
class Upload:
    """What a form held.

    Attributes:
        fields: names and values of its fields but the file.
        filename: the file's name; None: the form has no file.
        size: the file's bytes.
        is_text: whether they are UTF-8.
    """

    fields: dict[str, str] = field(factory=dict[str, str])
    filename: str | None = None
    size: int = 0
    is_text: bool = True


async def read_upload(
    stream: AsyncIterator[bytes], content_type: str, path: Path, max_bytes: int
) -> Upload:
    """Read a form; its file goes to `path`, up to a little more than `max_bytes`.

    Args:
        stream: the request's body.
        content_type: its `Content-Type` header, which names the boundary.
        path: where the file's bytes go.
        max_bytes: larger files are cut off; the upload's `size` tells.

    Raises:
        ApiError: if the body is no such form.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise ApiError(400, "The request must be multipart/form-data with a boundary.")
    with path.open("wb") as file:  # noqa: ASYNC230 - the page cache, a chunk at a time
        reader = _FormReader(options[b"boundary"], file.write, max_bytes)
        try:
            async for chunk in stream:
                reader.feed(chunk)
            return reader.finish()
        except FormParserError as error:
            raise ApiError(400, f"The form cannot be read: {error}.") from error


class _FormReader:
    """Callbacks of the multipart parser, which calls them while it is fed."""

    def __init__(self, boundary: bytes, write: Callable[[bytes], object], max_bytes: int) -> None:
        self._upload = Upload()
        self._write = write
        self._max_bytes = max_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._header = (b"", b"")
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
            },
        )
        self._is_file = False

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def finish(self) -> Upload:
        self._parser.finalize()
        self._decode(b"", final=True)
        return self._upload

    def _part_begin(self) -> None:
        self._disposition = b""
        self._value.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (b"", b"")

    def _headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options
        if self._is_file:
            self._upload.filename = options[b"filename"].decode(errors="replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if not self._is_file:
            self._value += piece[: MAX_FIELD - len(self._value)]
            return
        if self._upload.size <= self._max_bytes:
            self._write(piece)
            self._decode(piece)
        self._upload.size += len(piece)

    def _part_end(self) -> None:
        if not self._is_file:
            self._upload.fields[self._name] = self._value.decode(errors="replace")

    def _decode(self, piece: bytes, *, final: bool = False) -> None:
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            self._upload.is_text = False
