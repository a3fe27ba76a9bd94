"""Receipts: what a submitter holds until the answer is there, and the book they are found in."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final, Generic, Literal, Protocol, cast

import anyio
import anyio.lowlevel
import attrs
from typing_extensions import TypeVar

from ._exceptions import (
    ReceiptError,
    RequestAbandoned,
    RequestCancelled,
    RequestFailed,
)
from ._models import Answer

AnswerT = TypeVar("AnswerT", default=Answer)
Status = Literal["queued", "dispatched", "done", "failed", "cancelled", "abandoned"]


class _Open:
    """The outcome of a receipt that has none."""


_OPEN: Final = _Open()


@attrs.frozen(eq=False)
class Failure:
    """Why a receipt will not have an answer: what is needed to raise it anew at every await."""

    kind: type[ReceiptError]
    message: str
    code: str | None = None
    cause: BaseException | None = None

    def exception(self, custom_id: str) -> ReceiptError:
        """A new exception: one shared among waiters would grow its traceback with each."""
        if issubclass(self.kind, RequestFailed):
            error: ReceiptError = self.kind(self.message, code=self.code, custom_id=custom_id)
        else:
            error = self.kind(self.message, custom_id=custom_id)
        error.__cause__ = self.cause
        return error


class Desk(Protocol):
    """Where a queued receipt can be taken back, and where it says that somebody waits."""

    def withdraw(self, receipt: Receipt[Any]) -> bool:
        """Take the request back if it is still queued in memory."""
        ...

    def waiting(self, receipt: Receipt[Any]) -> None:
        """A task waits for this queued receipt."""
        ...

    def not_waiting(self, receipt: Receipt[Any]) -> None:
        """That task waits no more."""
        ...


class Receipt(Generic[AnswerT]):
    """One request that was taken, and its answer to come: `answer = await receipt`.

    Several tasks may await it, again and later; each await is a checkpoint. Cancelling a task
    that waits does not cancel the request. A receipt holds its own answer and nothing else;
    dropping it drops the answer.

    Awaiting raises `RequestFailed` (final; its kinds are `RequestCancelled` and
    `RequestExpired`), or `RequestAbandoned` or `ResultUnavailable` (not final: the request lives
    on, do not submit it again). Every await raises a new exception.

    Attributes:
        custom_id: the id that the provider knows the request by.
    """

    # While it is queued in memory a receipt is the queue's record too: one object a request.
    __slots__ = (
        "__weakref__",
        "_desk",
        "_event",
        "_outcome",
        "_status",
        "_subscriber",
        "custom_id",
        "element",
        "number",
        "time",
    )

    def __init__(self, custom_id: str, element: Any, desk: Desk | None = None) -> None:
        self.custom_id: str = custom_id
        self.element: Any = element
        self.number: int = -1
        self.time: float = 0.0
        self._desk = desk
        self._status: Status = "queued"
        self._outcome: AnswerT | Failure | _Open = _OPEN
        self._event: anyio.Event | None = None
        self._subscriber: Callable[[Receipt[AnswerT]], None] | None = None

    def __repr__(self) -> str:
        return f"<Receipt {self.custom_id!r} {self._status}>"

    @property
    def status(self) -> Status:
        """`queued`, `dispatched`, `done`, `failed`, `cancelled` or `abandoned`."""
        return self._status

    @property
    def settled(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._outcome is not _OPEN

    def __await__(self) -> Generator[Any, Any, AnswerT]:
        yield from self.wait().__await__()
        return self.outcome()

    async def wait(self) -> None:
        """Return when the receipt is settled; never raises for how.

        For `create_task`, `asyncio.wait` and their like, which refuse an awaitable that is no
        coroutine.
        """
        if self._outcome is not _OPEN:
            await anyio.lowlevel.checkpoint()
            return
        event = self._event
        if event is None:
            event = self._event = anyio.Event()
        desk = self._desk
        if desk is None or self._status != "queued":
            await event.wait()
            return
        desk.waiting(self)
        try:
            await event.wait()
        finally:
            desk.not_waiting(self)

    def outcome(self) -> AnswerT:
        """The answer, without waiting; raises as awaiting would.

        Raises:
            RuntimeError: the receipt is not settled.
        """
        outcome = self._outcome
        if isinstance(outcome, Failure):
            raise outcome.exception(self.custom_id)
        if outcome is _OPEN:
            raise RuntimeError(f"{self!r} is not settled; await it")
        return cast("AnswerT", outcome)

    def cancel(self) -> bool:
        """Take the request back while it is queued in this process's memory.

        Returns:
            Whether it was taken back; then awaiting raises `RequestCancelled`.
        """
        desk = self._desk
        if self._status != "queued" or desk is None or not desk.withdraw(self):
            return False
        self.fail(Failure(RequestCancelled, "the request was taken back", "cancelled"), "cancelled")
        return True

    @property
    def desk(self) -> Desk | None:
        """Where it was submitted, until it is settled."""
        return self._desk

    # Below: for whoever holds the request (dispatcher, then handler), not for the submitter.

    def subscribe(self, subscriber: Callable[[Receipt[AnswerT]], None]) -> None:
        """Call `subscriber(self)` once settled; at once if it is already."""
        if self._outcome is _OPEN:
            self._subscriber = subscriber
        else:
            subscriber(self)

    def dispatched(self) -> None:
        """The handler has it. The line stays until the queue forgets it: it may be read again."""
        if self._outcome is _OPEN:
            self._status = "dispatched"

    def answer(self, answer: AnswerT) -> None:
        """Settle with an answer; a receipt that is settled already stays as it is."""
        if self._outcome is _OPEN:
            self._status = "done"
            self._settle(answer)

    def fail(self, failure: Failure, status: Status = "failed") -> None:
        """Settle without an answer; a receipt that is settled already stays as it is."""
        if self._outcome is _OPEN:
            self._status = status
            self._settle(failure)

    def abandon(self, message: str, kind: type[ReceiptError] = RequestAbandoned) -> None:
        """Settle because nobody here will learn of the answer; the request lives on."""
        self.fail(Failure(kind, message), "abandoned")

    def _settle(self, outcome: AnswerT | Failure) -> None:
        self._outcome = outcome
        self._desk = None
        if self._event is not None:
            self._event.set()
        if self._subscriber is not None:
            subscriber, self._subscriber = self._subscriber, None
            subscriber(self)


def as_receipt(record: object) -> Receipt[Any] | None:
    """A queue's record as the receipt of whoever submitted it, if it is one."""
    return record if isinstance(record, Receipt) else None  # pyright: ignore[reportUnknownVariableType]


class ReceiptBook:
    """A handler's receipts, by batch: weakly held, so that a dropped receipt drops its answer."""

    def __init__(self) -> None:
        self._pages: dict[str, dict[str, weakref.ref[Receipt[Any]]]] = {}

    def open_page(self, batch_id: str, receipts: Mapping[str, Receipt[Any]]) -> None:
        """Take over the receipts of a batch."""
        page = self._pages.setdefault(batch_id, {})
        for custom_id, receipt in receipts.items():
            receipt.dispatched()
            page[custom_id] = weakref.ref(receipt)

    def get(self, batch_id: str, custom_id: str) -> Receipt[Any] | None:
        """The receipt of one request, if anybody still holds it."""
        page = self._pages.get(batch_id)
        reference = page.get(custom_id) if page else None
        return reference() if reference is not None else None

    def batches(self) -> list[str]:
        """The batches that have a page."""
        return list(self._pages)

    def open_receipts(self, batch_id: str) -> Iterable[Receipt[Any]]:
        """The receipts of a batch that are held and not settled."""
        for reference in list(self._pages.get(batch_id, {}).values()):
            receipt = reference()
            if receipt is not None and not receipt.settled:
                yield receipt

    def close_page(self, batch_id: str) -> None:
        """Forget a batch: all its receipts have had their end."""
        self._pages.pop(batch_id, None)
