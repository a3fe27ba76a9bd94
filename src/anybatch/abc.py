"""What the parts of anybatch ask of each other. Imports nothing of the package at run time.

A queue of your own needs the three methods of `RequestQueue`; a provider of your own the methods
of `Provider`. The protocols at the end describe langbatch's objects, which are accepted as they
are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from types import TracebackType

    from ._models import (
        Accepted,
        DeadLetter,
        Lease,
        Limits,
        Member,
        Part,
        Plan,
        QueueStatistics,
        Ranges,
        RemoteBatch,
        Terms,
    )


class RequestQueue(ABC):
    """A queue of JSON values: subclass it with three methods, each `async` or plain.

    Plain methods are called in a worker thread. What such a queue promises is its own word: what
    was taken out of it by a process that then dies is lost (at most once).

    Attributes:
        durable: whether what it accepted outlives the process. The dispatcher's default
            `on_exit` depends on it.
    """

    durable: ClassVar[bool] = False

    @abstractmethod
    def add_requests(self, requests: list[Any]) -> Awaitable[None] | None:
        """Append requests at the tail, in order."""

    @abstractmethod
    def get_requests(self, count: int) -> Awaitable[list[Any]] | list[Any]:
        """Take up to `count` requests from the head; fewer, or none, where there are no more."""

    def size(self) -> Awaitable[int] | int:
        """How many requests can be taken; by default `len(self)`."""
        length = getattr(self, "__len__", None)
        if length is None:
            raise NotImplementedError(
                f"{type(self).__name__} has neither size() nor __len__(); give it one of the two"
            )
        return int(length())


class LeasingQueue(RequestQueue):
    """A log of elements from which intervals are leased. All methods, or none.

    Elements are `bytes`: lines of a batch file, or JSON text to be completed when it is leased.
    Log numbers count from 0; `position()` is the number the next element will get. Operations
    that name a lease raise `LeaseLost` when somebody else has it by now.
    """

    uid: str

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

    @abstractmethod
    async def keep_profile(self, profile: str) -> None:
        """Note whose format the elements have (`Provider.profile`, or `function`).

        Raises:
            QueueMismatch: the queue holds elements of another profile.
        """

    @abstractmethod
    async def add(self, elements: Sequence[bytes], *, bound: int) -> int:
        """Append all of them, once the queue would then hold at most `bound` requests.

        Until then it stands in line. Cancelled: none was added (a durable queue's write that is
        on its way may still land).

        Returns:
            The log number of the first.

        Raises:
            ValueError: more elements than `bound`.
        """

    @abstractmethod
    async def lease(self, terms: Terms) -> Lease | None:
        """Lease a released interval, or cut one if the terms say so; else None."""

    @abstractmethod
    def read(self, lease: Lease, ranges: Ranges | None = None) -> AsyncIterator[Sequence[Member]]:
        """The lease's members in order, in chunks of at most 2,000; `ranges` narrows it.

        Buried and withdrawn ones are left out.
        """

    @abstractmethod
    async def plan(self, lease: Lease, plan: Plan) -> Lease:
        """Write the interval's plan, once; returns the lease with the plan that stands."""

    @abstractmethod
    async def renew(self, lease: Lease) -> None:
        """Keep the lease for another `lease_time`."""

    @abstractmethod
    async def ack(self, lease: Lease) -> None:
        """Forget the interval: all its members were handed over. Again: nothing happens."""

    @abstractmethod
    async def release(self, lease: Lease, delay: float = 0.0) -> None:
        """Give the interval back, to be leased again after `delay` seconds, first in line."""

    @abstractmethod
    async def bury(self, lease: Lease, number: int, reason: str) -> None:
        """Move one member to the dead letters."""

    @abstractmethod
    async def withdraw(self, number: int) -> bool:
        """Take back a request that was not cut yet; False where it is too late or unsupported."""

    @abstractmethod
    async def replan(self, interval_id: str) -> None:
        """Forget a held interval's plan, so that anybody may plan it again (perhaps buying twice)."""

    @abstractmethod
    async def wait_room(self, count: int, *, bound: int) -> None:
        """Stand in line until `count` more requests fit, in the order of arrival."""

    @abstractmethod
    async def wait_due(self, terms: Terms) -> None:
        """Return when `lease(terms)` may succeed: early is allowed, missed is not."""

    @abstractmethod
    async def position(self) -> int:
        """The log number that the next element will get."""

    @abstractmethod
    async def wait_passed(self, position: int) -> None:
        """Return when all below `position` is acknowledged, buried or withdrawn.

        Raises:
            FlushHeld: when intervals below it are held.
        """

    @abstractmethod
    async def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""

    @abstractmethod
    async def requeue(self, ids: Sequence[str]) -> int:
        """Append these dead letters at the tail again; returns how many."""

    @abstractmethod
    async def drop(self, ids: Sequence[str]) -> int:
        """Forget these dead letters; returns how many."""

    @abstractmethod
    async def last_sequence(self, producer: str) -> int | None:
        """The last sequence number that this named producer had accepted."""

    @abstractmethod
    async def statistics(self) -> QueueStatistics:
        """What the queue holds now."""


class Provider(ABC):
    """What a handler needs of a provider, in the order of a batch's life.

    `create` is plain and runs in a worker thread together with the record of its outcome, so that
    no cancellation falls between; everything else is asynchronous. Every call is made once: no
    layer below retries. Failures are `ProviderError`s that say whether a retry may help.
    """

    @property
    @abstractmethod
    def profile(self) -> str:
        """Which format its lines have: `openai`, or a langbatch class's module and name."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """What no batch exceeds."""

    @property
    def account(self) -> str:
        """A digest of the account that pays, never a key; empty where it cannot be told."""
        return ""

    @abstractmethod
    def complete(self, partial: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A full request, without `custom_id`, from a partial one and the request kwargs.

        Raises:
            RequestRejected: when the partial request has no form this provider knows.
        """

    @abstractmethod
    def check(self, request: Mapping[str, Any]) -> None:
        """Raise `RequestRejected` if the provider would refuse this full request."""

    async def __aenter__(self) -> Self:
        """Open connections; called when the handler is entered."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close connections; called when the handler is left."""

    @abstractmethod
    async def upload(self, path: Path, name: str) -> str:
        """Upload a batch file under this name; returns the provider's file id."""

    @abstractmethod
    def create(self, file_id: str, endpoint: str, trace: str) -> RemoteBatch:
        """Buy the batch, once. Plain: runs in a worker thread.

        Raises:
            NotSent: the call never left this machine.
            Refused: the provider says that it did not do it.
            OutcomeUnknown: anything else.
        """

    @abstractmethod
    async def find(self, trace: str, *, file_id: str, since: float) -> list[RemoteBatch]:
        """Batches created since then (seconds since the epoch) that carry the trace."""

    @abstractmethod
    async def status(self, batch_ids: Sequence[str]) -> dict[str, RemoteBatch]:
        """How these batches are; one that the provider does not know is left out."""

    @abstractmethod
    def results(self, batch: RemoteBatch) -> AsyncIterator[bytes]:
        """The rows of the output and the error file, a line each, streamed."""

    @abstractmethod
    async def cancel(self, batch_id: str) -> None:
        """Ask the provider to cancel the batch; what is finished is kept, and billed."""

    @abstractmethod
    async def delete(self, file_id: str) -> None:
        """Delete a file at the provider; one that is gone already is fine."""


class HandlerLike(Protocol):
    """What the dispatcher needs of a handler, once it has been entered."""

    @property
    def store_id(self) -> str:
        """The uid of its store; plans name it."""
        ...

    @property
    def provider(self) -> Provider:
        """Completes and checks requests, and says the limits."""
        ...

    @property
    def live_batches(self) -> int:
        """Batches that are neither done nor held."""
        ...

    def room(self) -> int | None:
        """How many more batches it takes now; None: no limit."""
        ...

    async def wait_room(self) -> None:
        """Return when `room()` may have risen above 0."""
        ...

    async def accept(self, part: Part) -> Accepted:
        """Take a part: create-if-absent in the store; durable when it returns.

        On NEW and KNOWN the receipts are the handler's from here on.
        """
        ...


@runtime_checkable
class BatchHandlerLike(Protocol):
    """A batch handler, ours or langbatch's: what they have in common."""

    async def add_batch(self, batch_id: str) -> None:
        """Take a batch whose bytes the storage holds."""
        ...

    async def run(self) -> None:
        """Run until cancelled."""
        ...


@runtime_checkable
class RequestQueueLike(Protocol):
    """langbatch's `RequestQueue`: plain methods, popped without a lease."""

    def add_requests(self, requests: list[Any]) -> Any:
        """Append requests."""
        ...

    def get_requests(self, count: int) -> Any:
        """Pop up to `count` requests."""
        ...


@runtime_checkable
class BatchStorageLike(Protocol):
    """langbatch's `BatchStorage`."""

    def save(self, id: str, data_file: Path, meta_data: dict[str, Any]) -> None:
        """Store a copy of the file and its metadata."""
        ...

    def load(self, id: str) -> tuple[Path, Path]:
        """The paths of the stored file and of its metadata."""
        ...


@runtime_checkable
class BatchQueueLike(Protocol):
    """langbatch's `BatchQueue`."""

    def save(self, queue: dict[str, list[str]]) -> None:
        """Store the lists of pending and processing batch ids."""
        ...

    def load(self) -> dict[str, list[str]]:
        """The lists of pending and processing batch ids."""
        ...
