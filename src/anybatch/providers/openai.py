"""OpenAI's Batch API, and whoever speaks it, on asyncio and Trio."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote, urlsplit, urlunsplit

import anyio
import httpx2
from anyio.lowlevel import checkpoint

from .._exceptions import OutcomeUnknown, ProviderError
from .._models import Limits, RemoteBatch
from .._threads import run_sync
from ..abc import Provider
from . import _http
from ._requests import CHAT, ENDPOINTS, check_request, complete_request
from ._streams import Form, FormBody, body_lines, open_file, with_stream

OPENAI_URL: Final = "https://api.openai.com/v1"
TRACE: Final = "anybatch"
"""The key of our trace in a batch's metadata."""

MANY: Final = 20
"""Batches above which their statuses come from listing, a hundred a call."""

_CLOSING: Final = 5.0  # seconds


class OpenAI(Provider):
    """OpenAI's Batch API, or any server that speaks it: give its `base_url`.

    It may be shared by several handlers. Every call is made once; nothing below retries.

    Args:
        endpoint: where partial requests go: `/v1/chat/completions`, `/v1/responses`,
            `/v1/embeddings` or `/v1/moderations`. A full request's own `url` decides for it.
        base_url: with the version, as `https://host/v1`; default: `OPENAI_BASE_URL`, else
            OpenAI's own.
        api_key: default: `OPENAI_API_KEY`. Needed unless there is a `base_url`.
        organization, project: sent along; default: `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID`.
        timeout: seconds for one step of a call (connecting, the next bytes).
        input_expiry: seconds after which OpenAI deletes an uploaded file, 3,600 to 2,592,000;
            None: say nothing of it, for servers that refuse to be told.
        limits: what no batch exceeds; default: OpenAI's 50,000 requests, 200 MB, and for
            embeddings 50,000 texts.
        headers: sent with every call.
        transport: an httpx2 transport for all calls but `create`.
        create_transport: one for `create`, which is made in a worker thread.

    Raises:
        ValueError: no key, or one that no header can carry; an unknown endpoint; no URL.
    """

    def __init__(
        self,
        endpoint: str = CHAT,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float = 120.0,
        input_expiry: int | None = 2_592_000,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        create_transport: httpx2.BaseTransport | None = None,
    ) -> None:
        if endpoint not in ENDPOINTS:
            raise ValueError(f"unknown endpoint {endpoint!r}; use one of {', '.join(ENDPOINTS)}")
        self.endpoint = endpoint
        given = base_url or os.environ.get("OPENAI_BASE_URL")
        self._base_url = _usable_url(given or OPENAI_URL)
        self._key = _usable_key(api_key or os.environ.get("OPENAI_API_KEY"), needed=not given)
        self._headers = {
            **_identity(self._key, organization, project),
            **(headers or {}),
        }
        self._timeout = timeout
        self._input_expiry = input_expiry
        self._limits = Limits(inputs=50_000) if limits is None else limits
        self._transport = transport
        self._create_transport = create_transport
        self._client: httpx2.AsyncClient | None = None
        self._users = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint!r} at {self.address!r}>"

    @property
    def address(self) -> str:
        """The base URL, without credentials."""
        parts = urlsplit(self._base_url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))

    @property
    def profile(self) -> str:
        return "openai"

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def account(self) -> str:
        secret = f"{self._base_url}\n{self._key}".encode()
        return hashlib.blake2b(secret, digest_size=16, person=b"anybatch account").hexdigest()

    def complete(self, partial: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return complete_request(self.endpoint, partial, kwargs)

    def check(self, request: Mapping[str, Any]) -> None:
        check_request(request, self.endpoint)

    async def __aenter__(self) -> Self:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                headers=self._headers, timeout=self._timeout, transport=self._transport
            )
        self._users += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._users -= 1
        client = self._client
        if self._users == 0 and client is not None:
            self._client = None
            with anyio.move_on_after(_CLOSING, shield=True):
                await client.aclose()

    async def upload(self, path: Path, name: str) -> str:
        """Upload a batch file, streamed from the disk; returns the provider's file id.

        Raises:
            ProviderError: it failed; cancelled or failed, a file may be there all the same.
        """
        form = Form(name, self._input_expiry)
        file = await run_sync(open_file, path)
        try:
            size = (await run_sync(os.fstat, file.fileno())).st_size
            headers = {"Content-Type": form.content_type, "Content-Length": str(form.length(size))}
            body = FormBody(form, file)
            data = await self._call("POST", "files", stream=body, headers=headers)
        finally:
            file.close()
        return _id_of(data, "uploading the batch file")

    def create(self, file_id: str, endpoint: str, trace: str) -> RemoteBatch:
        order = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": {TRACE: trace},
        }
        try:
            response = self._post_once(self._url("batches"), order)
        except Exception as exc:  # whatever it was: it decides whether we may have bought
            raise _http.failed_create(exc) from exc
        if not response.is_success:
            raise _http.bad_create(response, self._key)
        batch = _http.remote_batch(_http.json_object(response.content))
        if batch is None:
            raise OutcomeUnknown(
                "creating the batch: the reply names no batch; it may exist",
                status=response.status_code,
            )
        return batch

    def _post_once(self, url: str, order: Mapping[str, Any]) -> httpx2.Response:
        """Post on a connection of its own: one from a pool may be dead, which looks like a loss."""
        with httpx2.Client(
            headers=self._headers, timeout=self._timeout, transport=self._create_transport
        ) as client:
            return client.post(url, json=order)

    async def find(self, trace: str, *, file_id: str, since: float) -> list[RemoteBatch]:
        """Batches that carry the trace, or where none is echoed were made from this file.

        Listing ends with a page that is older than an hour before `since`.

        Raises:
            ProviderError: the listing failed or is not complete: then absence is not proved.
        """
        found: list[RemoteBatch] = []
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                found += [batch for batch in page if _is_ours(batch, trace, file_id)]
                if _newest(page) < since - 3600:
                    break
        return found

    async def status(self, batch_ids: Sequence[str]) -> dict[str, RemoteBatch]:
        found = await self._listed(set(batch_ids)) if len(batch_ids) > MANY else {}
        for batch_id in batch_ids:
            if batch_id not in found:
                batch = await self._retrieve(batch_id)
                if batch is not None:
                    found[batch_id] = batch
        await checkpoint()
        return found

    async def _retrieve(self, batch_id: str) -> RemoteBatch | None:
        try:
            data = await self._call("GET", f"batches/{quote(batch_id, safe='')}")
        except ProviderError as exc:
            if exc.status == 404:  # also for seconds after the create, and at random later
                return None
            raise
        return _http.remote_batch(data)

    async def _listed(self, wanted: set[str]) -> dict[str, RemoteBatch]:
        """Those of them that the newest pages show, twice as many pages as they would fill."""
        found: dict[str, RemoteBatch] = {}
        pages_left = 2 + 2 * len(wanted) // 100
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                found |= {batch.id: batch for batch in page if batch.id in wanted}
                pages_left -= 1
                if len(found) == len(wanted) or pages_left == 0:
                    break
        return found

    async def _pages(self) -> AsyncGenerator[list[RemoteBatch], None]:
        """All batches of the account, newest first, by pages of a hundred."""
        after: str | None = None
        while True:
            params = {"limit": "100"} | ({} if after is None else {"after": after})
            data = await self._call("GET", "batches", params=params)
            items = data.get("data")
            if not isinstance(items, list):  # so nothing is proved by what it does not show
                raise ProviderError(f"listing the batches: no list: {data!r:.200}", transient=True)
            page = [
                batch
                for item in cast("list[dict[str, Any]]", items)
                if (batch := _http.remote_batch(item)) is not None
            ]
            yield page
            last = page[-1].id if page else None
            if last is None or not data.get("has_more"):
                return
            if last == after:
                raise ProviderError("listing the batches: the server repeats its first page")
            after = last

    # ASYNC119: each of these generators is closed by the one around it, and the outermost by whoever
    # reads it: a download is open for as long as somebody reads.

    async def results(self, batch: RemoteBatch) -> AsyncGenerator[bytes, None]:
        """The rows of the output file, then of the error file.

        Raises:
            ProviderError: transient where the download tore; the rows so far are good.
        """
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                async with aclosing(self._rows(file_id)) as rows:
                    async for row in rows:
                        yield row  # noqa: ASYNC119 - read under aclosing()

    async def _rows(self, file_id: str) -> AsyncGenerator[bytes, None]:
        what = f"downloading {file_id}"
        url = self._url(f"files/{quote(file_id, safe='')}/content")
        try:
            async with self._open.stream("GET", url) as response:
                if not response.is_success:
                    await response.aread()
                    raise _http.bad_status(what, response, self._key, not_yet=True)
                async with aclosing(body_lines(response, what)) as lines:
                    async for line in lines:
                        yield line  # noqa: ASYNC119 - read under aclosing()
        except httpx2.HTTPError as exc:
            raise _http.failed_call(what, exc) from exc

    async def cancel(self, batch_id: str) -> None:
        """Ask the provider to cancel the batch.

        Raises:
            ProviderError: it was not cancelled; not transient where it has ended already (409).
        """
        try:
            await self._send("POST", f"batches/{quote(batch_id, safe='')}/cancel")
        except ProviderError as exc:
            if exc.status == 409:
                exc.transient = False
            raise

    async def delete(self, file_id: str) -> None:
        try:
            await self._send("DELETE", f"files/{quote(file_id, safe='')}")
        except ProviderError as exc:
            if exc.status != 404:
                raise

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = await self._send(method, path, **arguments)
        data = _http.json_object(response.content)
        if not data:
            raise ProviderError(
                f"{method} {path}: the reply is no JSON object with anything in it:"
                f" {_http.words(response, self._key)[:200]!r}",
                status=response.status_code,
                transient=True,
            )
        return data

    async def _send(
        self,
        method: str,
        path: str,
        *,
        stream: httpx2.AsyncByteStream | None = None,
        **arguments: Any,
    ) -> httpx2.Response:
        what = f"{method} {path}"
        try:
            request = self._open.build_request(method, self._url(path), **arguments)
            if stream is not None:
                request = with_stream(request, stream)
            response = await self._open.send(request)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise _http.failed_call(what, exc) from exc
        if not response.is_success:
            raise _http.bad_status(what, response, self._key)
        return response

    @property
    def _open(self) -> httpx2.AsyncClient:
        if self._client is None:
            raise RuntimeError(f"{self!r} is not open; call it inside `async with provider:`")
        return self._client

    def _url(self, path: str) -> str:
        return f"{self._base_url}/{path}"


def _usable_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url {url!r} has no scheme; give it as https://host/v1")
    return url.rstrip("/")


def _usable_key(key: str | None, *, needed: bool) -> str:
    key = (key or "").strip()
    if needed and not key:
        raise ValueError(
            "no API key: set the environment variable OPENAI_API_KEY, give api_key=…,"
            " or base_url=… for a server that needs none"
        )
    if not (key.isascii() and (key.isprintable() or not key)) or " " in key:
        # Never shown: not even the part that is wrong.
        raise ValueError("the API key has characters that no HTTP header can carry; copy it again")
    return key


def _identity(key: str, organization: str | None, project: str | None) -> dict[str, str]:
    headers = {
        "Authorization": f"Bearer {key}" if key else "",
        "OpenAI-Organization": organization or os.environ.get("OPENAI_ORG_ID", ""),
        "OpenAI-Project": project or os.environ.get("OPENAI_PROJECT_ID", ""),
    }
    return {name: value for name, value in headers.items() if value}


def _id_of(data: Mapping[str, Any], what: str) -> str:
    found = data.get("id")
    if not (isinstance(found, str) and found):
        raise ProviderError(f"{what}: the reply has no id: {dict(data)!r:.200}", transient=True)
    return found


def _is_ours(batch: RemoteBatch, trace: str, file_id: str) -> bool:
    if TRACE in batch.metadata:
        return batch.metadata[TRACE] == trace
    return batch.input_file_id == file_id


def _newest(page: Sequence[RemoteBatch]) -> float:
    """When the youngest of a page was created; one that does not say counts as new."""
    times = (time.time() if batch.created_at is None else batch.created_at for batch in page)
    return max(times, default=0.0)
