"""The Files API: upload, list, retrieve, delete, content."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import aclosing
from secrets import token_urlsafe

from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ._pages import json_response, page
from ._uploads import Upload, read_upload
from .errors import ApiError, invalid, missing
from .records import FileRecord
from .store import Store
from .validation import Limits

CHUNK = 128 * 1024
"""Bytes of a file that are read and sent at a time."""


@frozen(eq=False)
class FilesApi:
    """Endpoints about files.

    Args:
        store: where they are.
        limits: what is taken.
    """

    store: Store
    limits: Limits

    async def create(self, request: Request) -> Response:
        """`POST /v1/files`."""
        file_id = f"file-{token_urlsafe(18).replace('_', 'a').replace('-', 'b')}"
        path = self.store.incoming(file_id)
        try:
            async with aclosing(request.stream()) as stream:
                kind = request.headers.get("content-type", "")
                upload = await read_upload(stream, kind, path, self.limits.max_file_bytes)
            record = self._record(file_id, upload)
            await self.store.add_file(record, path)
        finally:
            path.unlink(missing_ok=True)
        self.store.note(event="uploads", file=file_id)
        return json_response(record.to_api())

    def _record(self, file_id: str, upload: Upload) -> FileRecord:
        self._check(upload)
        self._check_quota(upload)
        now, lifetime = int(time.time()), _lifetime(upload.fields)
        return FileRecord(
            id=file_id,
            number=self.store.next_file_number(),
            filename=upload.filename or "",
            purpose=upload.fields["purpose"],
            bytes=upload.size,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )

    def _check(self, upload: Upload) -> None:
        if upload.filename is None:
            raise missing("file")
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise missing("purpose")
        if purpose != "batch":
            raise invalid("purpose", f"'{purpose}' is not one of ['batch'] - 'purpose'")
        if not upload.filename.endswith(".jsonl"):
            message = f"Invalid file format for Batch API: '{upload.filename}'. Must be .jsonl."
            raise ApiError(400, message, param="file")
        if not upload.is_text:
            message = "Invalid file format for Batch API. The file must be UTF-8 text."
            raise ApiError(400, message, param="file")
        if upload.size > self.limits.max_file_bytes:
            message = (
                f"File is too large: {upload.size} bytes;"
                f" {self.limits.max_file_bytes} are allowed for a batch."
            )
            raise ApiError(400, message, param="file", code="file_too_large")

    def _check_quota(self, upload: Upload) -> None:
        files = self._files()
        stored = sum(record.bytes for record in files) + upload.size
        max_files, max_bytes = self.limits.max_files, self.limits.max_stored_bytes
        if max_files is not None and len(files) >= max_files:
            message = f"You have reached the limit of {max_files} files. Delete some of them."
            raise ApiError(400, message, code="file_quota_exceeded")
        if max_bytes is not None and stored > max_bytes:
            message = f"Your files would exceed the limit of {max_bytes} bytes. Delete some."
            raise ApiError(400, message, code="file_quota_exceeded")

    async def browse(self, request: Request) -> Response:
        """`GET /v1/files`."""
        purpose = request.query_params.get("purpose")
        files = [r for r in self._files() if purpose in (None, r.purpose)]
        return json_response(page(request, files, default=10_000, largest=10_000))

    async def retrieve(self, request: Request) -> Response:
        """`GET /v1/files/{file_id}`."""
        return json_response(self._get(request).to_api())

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/files/{file_id}`."""
        record = self._get(request)
        self.store.drop_file(record.id)
        self.store.note(event="deletes", file=record.id)
        return json_response({"id": record.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """`GET /v1/files/{file_id}/content`, whole or the bytes that a `Range` header names."""
        record = self._get(request)
        wanted = _range(request.headers.get("range"), record.bytes)
        return _Content(self.store, record, wanted)

    def _files(self) -> list[FileRecord]:
        for record in [record for record in self.store.files.values() if record.expired()]:
            self.store.drop_file(record.id)
        return list(self.store.files.values())

    def _get(self, request: Request) -> FileRecord:
        file_id: str = request.path_params["file_id"]
        record = self.store.files.get(file_id)
        if record is None or record.expired():
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return record


def _lifetime(fields: Mapping[str, str]) -> int | None:
    """Return the seconds in `expires_after[seconds]`, None where there is no such field."""
    text = fields.get("expires_after[seconds]")
    if text is None:
        return None
    return check_lifetime(
        {
            "anchor": fields.get("expires_after[anchor]"),
            "seconds": int(text) if text.isdecimal() else text,
        },
        "expires_after",
    )


def check_lifetime(value: object, param: str) -> int:
    """Return the seconds of an object `{"anchor": "created_at", "seconds": …}`.

    Raises:
        ApiError: if it is no such object, or the seconds are not in 3,600…2,592,000.
    """
    match value:
        case {"anchor": "created_at", "seconds": int(seconds)} if 3_600 <= seconds <= 2_592_000:
            return seconds
        case _:
            message = (
                f"Invalid '{param}': the anchor 'created_at' and from 3600 to 2592000 seconds"
                " are supported."
            )
            raise invalid(param, message)


def _range(header: str | None, size: int) -> range | None:
    """Return the bytes that a `Range` header names; None: all, which is no partial answer.

    Raises:
        ApiError: if there are no such bytes.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        begin, end = int(first), min(int(last) + 1 if last else size, size)
    else:
        begin, end = max(size - int(last), 0), size
    if begin >= end:
        raise ApiError(416, f"The file has {size} bytes; there are none in {header}.")
    return range(begin, end)


class _Content(Response):
    """The bytes of a file, read a chunk at a time; it stops when the client is gone."""

    def __init__(self, store: Store, record: FileRecord, wanted: range | None) -> None:
        self._path = store.content(record.id)
        self._bytes = range(record.bytes) if wanted is None else wanted
        headers = {
            "accept-ranges": "bytes",
            "content-length": str(len(self._bytes)),
            "content-disposition": f'attachment; filename="{record.id}.jsonl"',
            "etag": f'"{record.id}"',
        }
        if wanted is not None:
            last = wanted.stop - 1
            headers["content-range"] = f"bytes {wanted.start}-{last}/{record.bytes}"
        status = 200 if wanted is None else 206
        super().__init__(None, status, headers, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        async with create_task_group() as group:
            group.start_soon(_until_gone, receive, group.cancel_scope, name="client gone?")
            await self._send(send)
            group.cancel_scope.cancel()

    async def _send(self, send: Send) -> None:
        with self._path.open("rb") as file:  # noqa: ASYNC230 - the page cache, in chunks
            file.seek(self._bytes.start)
            for begin in range(0, len(self._bytes), CHUNK):
                chunk = file.read(min(CHUNK, len(self._bytes) - begin))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # Without a client a send comes back at once: let the task see it that looks.
                await checkpoint()
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, scope: CancelScope) -> None:
    await receive()  # the request has ended, so this is the disconnect
    scope.cancel()
