"""Executing the rows of a batch: the engine's answers, the fault plan's ideas, one log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

import orjson
from anyio import create_task_group
from attrs import define

from ._context import Context
from ._rows import Row, RowLog, place_of
from ._slices import Breather
from .echo import body_digest
from .errors import ApiError
from .faults import RowFault
from .records import BatchRecord

logger = logging.getLogger(__name__)

Request = dict[str, Any]


async def execute(context: Context, batch_id: str, log: RowLog, halted: Callable[[], bool]) -> None:
    """Execute the rows that the log does not have yet, until all are done or the batch halts.

    Cancelled: rows that were answered are in the log, the others are as if never begun.

    Args:
        context: where the batch is.
        batch_id: which one.
        log: its rows; flushed when this returns.
        halted: whether no further row shall begin; asked before each.
    """
    execution = _Execution(context, batch_id, log, halted)
    try:
        await execution.run()
    finally:
        execution.save()


@define(eq=False)
class _Execution:
    context: Context
    batch_id: str
    log: RowLog
    halted: Callable[[], bool]

    @property
    def record(self) -> BatchRecord:
        return self.context.store.batches[self.batch_id]

    async def run(self) -> None:
        lines = self._pending()
        try:
            async with create_task_group() as group:
                for _ in range(self.context.engine.concurrency - 1):
                    group.start_soon(self._work, lines, name=f"rows of {self.batch_id}")
                await self._work(lines)
        finally:
            lines.close()

    def _pending(self) -> Generator[tuple[int, bytes]]:
        """Yield the requests that are not in the log, up to where a fault ends the batch."""
        limit = self.record.fault.row_limit()
        left = None if limit is None else limit - len(self.log)
        for index, line in enumerate(self.context.store.requests(self.batch_id)):
            if left is not None and left <= 0:
                return
            if index not in self.log.done:
                left = None if left is None else left - 1
                yield index, line

    async def _work(self, lines: Generator[tuple[int, bytes]]) -> None:
        """Execute one line after the other; several of these share the lines."""
        breather = Breather()
        for index, line in lines:
            if self.halted():
                return
            row = await self._row(index, orjson.loads(line))
            self.log.append(row)
            self.context.store.ledger.row(row)
            if breather.due():
                self.save()
                await breather.breathe()

    def save(self) -> None:
        """Hand the log to the operating system and show how far the batch is."""
        self.log.flush()
        counts, usage = self.log.counts(self.record.counts.total), self.log.usage
        self.context.store.count(self.batch_id, counts=counts, usage=usage)

    async def _row(self, index: int, request: Request) -> Row:
        custom_id: str = request["custom_id"]
        fault = self.context.faults.for_row(self.record.number, index, custom_id)
        kind = None if fault is None else fault.kind
        status, body = await self._answer(request["body"], fault)
        billed = status == 200
        return Row(
            index=index,
            place=place_of(kind) if billed or kind == "zero" else "error",
            billed=billed,
            custom_id=custom_id,
            digest=body_digest(request["body"]),
            tokens=_tokens(body) if billed else (0, 0),
            line=_disfigured(self._line(index, custom_id, status, body), fault),
        )

    async def _answer(self, body: Request, fault: RowFault | None) -> tuple[int, Request]:
        if fault is not None and fault.kind == "zero":
            return 0, {}
        if fault is not None and fault.kind == "error":
            return fault.status, ApiError(fault.status, fault.message, code=fault.code).body()
        try:
            return 200, await self.context.engine.respond(self.record.endpoint, body)
        except ApiError as refusal:
            return refusal.status, refusal.body()
        except Exception:  # an engine's defect is this row's error; the others go on
            logger.exception("the engine %s failed", self.context.engine.name)
            return 500, ApiError(500, "The engine failed.", type="server_error").body()

    def _line(self, index: int, custom_id: str, status: int, body: Request) -> Request:
        number = f"{self.batch_id.removeprefix('batch_')[:16]}{index:08x}"
        response = {"status_code": status, "request_id": f"req_{number}", "body": body}
        return {
            "id": f"batch_req_{number}",
            "custom_id": custom_id,
            "response": response,
            "error": None,
        }


def _disfigured(line: Request, fault: RowFault | None) -> bytes:
    """Return the line as JSON text, changed as the fault has it."""
    if fault is not None and fault.kind == "stranger":
        line = {**line, "custom_id": fault.as_id}
    if fault is not None and fault.kind == "oversized":
        line = {**line, "padding": "x" * fault.bytes}
    text = orjson.dumps(line)
    return text[: len(text) // 2] if fault is not None and fault.kind == "malformed" else text


def _tokens(body: Request) -> tuple[int, int]:
    """Return the tokens that went in and came out, whatever the endpoint calls them."""
    usage: dict[str, int] = body.get("usage") or {}
    asked = usage.get("prompt_tokens") or usage.get("input_tokens") or 0
    return asked, usage.get("completion_tokens") or usage.get("output_tokens") or 0
