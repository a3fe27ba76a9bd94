"""A provider in this process, in virtual time, that fails as it is told to."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import orjson

from .._exceptions import Refused, RequestRejected
from .._models import Limits, LineError, RemoteBatch
from .._threads import run_sync
from ..abc import Provider

Body = Mapping[str, Any]


def echo(body: Body) -> dict[str, Any]:
    """A chat completion that repeats the last message."""
    content = body["messages"][-1]["content"]
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@attrs.define
class _Fault:
    error: BaseException
    done: bool


@attrs.define
class _Batch:
    """A batch that was bought."""

    id: str
    file_id: str
    endpoint: str
    trace: str
    started: float | None = None
    cancelled: bool = False


class FakeProvider(Provider):
    """An in-memory provider of chat completions, for tests.

    Its batches end `duration` seconds after the first look at them. What fails is told by `fail`;
    how batches end, by the attributes, which may be changed at any time.

    Args:
        answer: the response body for a request body; default: an echo.
        duration: seconds from the first look to the end.
        profile, limits, account: as a provider's.

    Attributes:
        calls: how often each of `upload`, `create`, `status`, `results`, `cancel`, `delete` and
            `find` was called, failures included.
        created: the traces of the batches that were bought, in order.
        batches: what was bought, by the provider's id.
        files: what was uploaded: name by file id.
        hidden: how many looks leave out every batch, as a 404 just after the create does.
        ending: the status that batches end with.
        answered: how many requests of a batch get a row; None: all.
        errors: why batches fail.
        row_errors: custom id → code and message of its row.
        dropped: custom ids without a row.
        extra_rows: lines that come before the others.
        on_create: called in the thread of each create, before anything else.
    """

    def __init__(
        self,
        answer: Callable[[Body], dict[str, Any]] = echo,
        *,
        duration: float = 1.0,
        profile: str = "fake",
        limits: Limits | None = None,
        account: str = "",
    ) -> None:
        self._answer = answer
        self._duration = duration
        self._profile = profile
        self._limits = limits or Limits()
        self._account = account
        self._lock = threading.Lock()
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)
        self._numbers = itertools.count(1)
        self._lines: dict[str, list[bytes]] = {}
        self.calls: Counter[str] = Counter()
        self.created: list[str] = []
        self.batches: dict[str, _Batch] = {}
        self.files: dict[str, str] = {}
        self.hidden: int = 0
        self.ending = "completed"
        self.answered: int | None = None
        self.errors: tuple[LineError, ...] = ()
        self.row_errors: dict[str, tuple[str, str]] = {}
        self.dropped: set[str] = set()
        self.extra_rows: list[bytes] = []
        self.on_create: Callable[[], object] = lambda: None

    @property
    def profile(self) -> str:
        return self._profile

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def account(self) -> str:
        return self._account

    def fail(self, call: str, error: BaseException, times: int = 1, *, done: bool = False) -> None:
        """Let the next calls of this name raise.

        Args:
            call: `upload`, `create`, `status`, `results`, `cancel`, `delete` or `find`.
            error: what they raise.
            times: how many of them.
            done: whether they have happened all the same, the reply being what is lost.
        """
        self._faults[call].extend([_Fault(error, done)] * times)

    def _begin(self, call: str) -> BaseException | None:
        """Count a call; raises its fault, or returns the one to raise when it is done."""
        with self._lock:
            self.calls[call] += 1
            fault = self._faults[call].popleft() if self._faults[call] else None
        if fault is None:
            return None
        if not fault.done:
            raise fault.error
        return fault.error

    def complete(self, partial: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": partial}] if isinstance(partial, str) else partial
        body = {**kwargs, "messages": messages}
        return {"method": "POST", "url": "/v1/chat/completions", "body": body}

    def check(self, request: Mapping[str, Any]) -> None:
        body = request.get("body")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):  # pyright: ignore[reportUnknownMemberType]
            raise RequestRejected("a request needs a body with a list of messages")
        if not body.get("model"):  # pyright: ignore[reportUnknownMemberType]
            raise RequestRejected('a request needs a model: request_kwargs={"model": "…"}')

    async def upload(self, path: Path, name: str) -> str:
        await anyio.lowlevel.checkpoint()
        after = self._begin("upload")
        lines = (await run_sync(path.read_bytes)).splitlines()
        file_id = f"file-{next(self._numbers)}"
        self._lines[file_id] = lines
        self.files[file_id] = name
        if after is not None:
            raise after
        return file_id

    def create(self, file_id: str, endpoint: str, trace: str) -> RemoteBatch:
        self.on_create()
        after = self._begin("create")
        if file_id not in self._lines:
            raise Refused(f"there is no file {file_id!r}", status=400, code="no_such_file")
        with self._lock:
            batch = _Batch(f"batch-{next(self._numbers)}", file_id, endpoint, trace)
            self.batches[batch.id] = batch
            self.created.append(trace)
        if after is not None:
            raise after
        return self._view(batch, "validating")

    async def find(self, trace: str, *, file_id: str, since: float) -> list[RemoteBatch]:  # noqa: ARG002 - nothing is old here
        await anyio.lowlevel.checkpoint()
        after = self._begin("find")
        found = [b for b in self.batches.values() if b.trace == trace or b.file_id == file_id]
        if after is not None:
            raise after
        return [self._view(batch, self._status(batch)) for batch in found]

    async def status(self, batch_ids: Sequence[str]) -> dict[str, RemoteBatch]:
        await anyio.lowlevel.checkpoint()
        after = self._begin("status")
        if after is not None:
            raise after
        if self.hidden:
            self.hidden -= 1
            return {}
        known = [self.batches[name] for name in batch_ids if name in self.batches]
        return {batch.id: self._view(batch, self._status(batch)) for batch in known}

    def _status(self, batch: _Batch) -> str:
        now = anyio.current_time()
        if batch.started is None:
            batch.started = now
        if batch.cancelled:
            return "cancelled"
        return self.ending if now >= batch.started + self._duration else "in_progress"

    def _view(self, batch: _Batch, status: str) -> RemoteBatch:
        ended = status in {"completed", "expired", "cancelled"}
        return RemoteBatch(
            batch.id,
            status,
            errors=self.errors if status == "failed" else (),
            output_file_id=f"output-{batch.id}" if ended else None,
            input_file_id=batch.file_id,
            metadata={"anybatch": batch.trace},
        )

    async def results(self, batch: RemoteBatch) -> AsyncIterator[bytes]:
        await anyio.lowlevel.checkpoint()
        after = self._begin("results")
        if batch.output_file_id is not None:
            for number, row in enumerate(self._rows(self.batches[batch.id])):
                if number % 500 == 0:
                    await anyio.lowlevel.checkpoint()
                yield row
        # Here, so that a fault that is "done" tears the download off near its end.
        if after is not None:
            raise after

    def _rows(self, batch: _Batch) -> Iterator[bytes]:
        yield from self.extra_rows
        for line in self._lines[batch.file_id][: self.answered]:
            request = orjson.loads(line)
            if request["custom_id"] not in self.dropped:
                yield self._row(request)

    def _row(self, request: Mapping[str, Any]) -> bytes:
        custom_id = request["custom_id"]
        row: dict[str, Any] = {"custom_id": custom_id, "response": None, "error": None}
        if custom_id in self.row_errors:
            code, message = self.row_errors[custom_id]
            row["error"] = {"code": code, "message": message}
        else:
            row["response"] = {"status_code": 200, "body": self._answer(request["body"])}
        digest = hashlib.sha256(custom_id.encode()).hexdigest()[:12]
        return orjson.dumps({"id": f"row-{digest}", **row})

    async def cancel(self, batch_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        after = self._begin("cancel")
        self.batches[batch_id].cancelled = True
        if after is not None:
            raise after

    async def delete(self, file_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        after = self._begin("delete")
        self._lines.pop(file_id, None)
        if after is not None:
            raise after
