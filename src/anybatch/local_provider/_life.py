"""The life of one batch, from `validating` to its end, written as sequential code.

It may begin at any status but an end, so a provider that was killed goes on where it was.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import anyio
from anyio import current_time
from attrs import define, field

from ._context import Context
from ._execution import execute
from ._output import write_files
from ._rows import RowLog
from ._slices import Breather
from .records import TERMINAL, BatchRecord, Counts, LineError, Status
from .validation import Validator


@define(eq=False)
class BatchLife:
    """Drives one batch.

    Args:
        context: where the batch is.
        batch_id: which one.
    """

    context: Context
    batch_id: str
    _deadline: float = field(init=False)
    _wake: anyio.Event = field(init=False, factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        # The system's clock survives a restart; the event loop's may be virtual.
        left = min(self.record.expires_at - time.time(), self.context.window)
        stuck = self.record.fault.stuck_in is not None
        self._deadline = math.inf if stuck else current_time() + left

    @property
    def record(self) -> BatchRecord:
        """The batch as it is now."""
        return self.context.store.batches[self.batch_id]

    def wake(self) -> None:
        """Make it look at its record again, which was changed to `cancelling`."""
        self._wake.set()

    def halted(self) -> bool:
        """Whether the batch shall go no further: it is being cancelled, or its time is over."""
        return self.record.status == "cancelling" or current_time() >= self._deadline

    async def run(self) -> None:
        """Bring the batch to its end. Cancelled: it stays where it is, for the next life."""
        log = self.context.store.row_log(self.batch_id)
        try:
            await log.recover()
            while self.record.status not in TERMINAL:
                if self.record.status == "validating":
                    await self._validate()
                elif self.record.status == "in_progress":
                    await self._execute(log)
                else:
                    await self._finalize(log)
        finally:
            log.close()

    async def _validate(self) -> None:
        await self._pause("validating")
        if self.halted():
            await self._move("finalizing", ending="expired")
            return
        verdict = await self._verdict()
        seen: dict[str, Any] = {"model": verdict.model, "tokens": verdict.tokens}
        if verdict.errors:
            await self._move("failed", errors=tuple(verdict.errors), **seen)
        else:
            await self._move("in_progress", counts=Counts(total=verdict.total), **seen)

    async def _verdict(self) -> Validator:
        validator = Validator(self.record.endpoint, self.context.limits)
        lines = self.context.store.input_lines(self.batch_id)
        if lines is None:
            validator.errors.append(_unreadable(self.record.input_file_id))
            return validator
        breather = Breather()
        for line in lines:
            validator.feed(line)
            if breather.due():
                await breather.breathe()
        validator.finish()
        validator.errors += self._refusals(validator)
        return validator

    def _refusals(self, verdict: Validator) -> list[LineError]:
        fault = self.record.fault
        if fault.fail_code is not None:
            line, message = fault.fail_line, fault.fail_message
            return [LineError(code=fault.fail_code, message=message, line=line)]
        limit = self.context.limits.max_enqueued_tokens
        if limit is None or self._tokens_enqueued(verdict.model) + verdict.tokens <= limit:
            return []
        message = (
            f"Enqueued token limit reached for {verdict.model}. Limit: {limit} enqueued tokens."
            " Please try again once some in_progress batches have been completed."
        )
        return [LineError(code="token_limit_exceeded", message=message)]

    def _tokens_enqueued(self, model: str | None) -> int:
        return sum(
            record.tokens
            for record in self.context.store.batches.values()
            if record.model == model and record.status not in TERMINAL
        )

    async def _execute(self, log: RowLog) -> None:
        await self._pause("in_progress")
        if not self.halted():
            await execute(self.context, self.batch_id, log, self.halted)
        fault, limit = self.record.fault, self.record.fault.row_limit()
        limited = limit is not None and self.record.counts.done >= limit
        if limited and fault.stuck_in == "in_progress":
            await self._wake.wait()
        if limited and fault.cancel_after == limit:
            await self._move("cancelling")
        elif limited or self.record.counts.done < self.record.counts.total:
            await self._move("finalizing", ending="expired")
        else:
            await self._move("finalizing", ending="completed")

    async def _finalize(self, log: RowLog) -> None:
        if self.record.status == "cancelling":
            await anyio.sleep(self.context.delay)
        else:
            await self._pause("finalizing")
        files = await write_files(self.context, self.batch_id, log)

        def end(record: BatchRecord) -> BatchRecord:
            cancelled = record.status == "cancelling"
            return record.moved("cancelled" if cancelled else record.ending, **files)

        await self.context.store.change(self.batch_id, end)
        self.context.store.drop_input(self.batch_id)

    async def _pause(self, status: Literal["validating", "in_progress", "finalizing"]) -> None:
        """Stay in a status for its time: until a cancel, or the end of all time, wakes us."""
        fault = self.record.fault
        stuck = fault.stuck_in == status and not (status == "in_progress" and fault.stuck_after)
        until = math.inf if stuck else min(current_time() + self.context.delay, self._deadline)
        with anyio.move_on_at(until):
            await self._wake.wait()

    async def _move(self, status: Status, **changes: Any) -> None:
        """Go to another status, unless a cancel was faster."""

        def move(record: BatchRecord) -> BatchRecord:
            return record if record.status == "cancelling" else record.moved(status, **changes)

        await self.context.store.change(self.batch_id, move)
        if self.record.status == "failed":
            self.context.store.drop_input(self.batch_id)


def _unreadable(file_id: str) -> LineError:
    message = f"The input file '{file_id}' does not exist or cannot be used for a batch."
    return LineError(code="file_not_found", message=message, param="input_file_id")
