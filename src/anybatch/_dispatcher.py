"""`BatchDispatcher`: the assembly of intake, queue, watcher, workers and handlers."""

from __future__ import annotations

import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, overload

import anyio
import anyio.lowlevel
import attrs
from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin
from anyio.abc import TaskStatus
from typing_extensions import TypeVar

from ._admission import Admission
from ._arguments import as_handlers, as_leasing, check_choice, check_counts, check_seconds
from ._exceptions import DispatcherCrashed
from ._function import FunctionDelivery
from ._hand_over import HandOver
from ._intake import FunctionIntake, ProviderIntake
from ._life import Life
from ._models import Answer, DispatcherStatistics, Json, QueueStatistics, RawRequest, Terms
from ._process import Answers, Conveyor
from ._receipts import Receipt
from ._watcher import Waiters
from .abc import BatchHandlerLike, LeasingQueue, RequestQueue, RequestQueueLike
from .request_queues.memory import InMemoryRequestQueue

if TYPE_CHECKING:
    from .abc import HandlerLike

ApiRequest = Json | RawRequest
RequestT = TypeVar("RequestT", default=Any)
AnswerT = TypeVar("AnswerT", default=Answer)
_DEFAULT: Any = object()


class BatchDispatcher(AsyncContextManagerMixin, Generic[RequestT, AnswerT]):
    """Takes single requests, dispatches them in batches, and brings every answer back.

    Enter it (`async with`), or run it as a task (`run()`), once. Left by the end of the body it
    hands over what is queued; see `on_exit`. An exception in the body comes out as it is.

    Args:
        batch_handler: a `BatchHandler`, ours or langbatch's; a sequence of them, all ours or all
            langbatch's and of one batch type (batches go to the one with the most room); or an
            async function `list of requests -> sequence of results`, matched by position, where
            an exception in the sequence fails that one request.
        queue: ours, a `RequestQueue` of your own, or a langbatch one; default: in memory.
        queue_threshold: requests that make a batch due, and that no batch exceeds; default 50,000
            (function: 500).
        time_threshold: seconds after which the oldest queued request makes a batch due; default
            7,200 (function: 0.01).
        time_interval: seconds between two looks at a queue that cannot signal.
        requests_type: `"partial"` (messages, or a text, completed by `request_kwargs`) or
            `"full"` (Batch API requests).
        request_kwargs: what completes partial requests: the model, the temperature, …
        size_threshold: bytes, newlines counted, likewise; default: the provider's file limit.
        idle_threshold: seconds without a new request after which one that a task waits for makes
            a batch due, at most once a minute; default 5 (function: None); None: never.
        max_pending: requests queued or leased; above it, submitters stand in line.
        dispatch_workers: batches handed over at a time.
        on_exit: at the end of the body, `"flush"` (cut and hand over everything) or `"leave"`
            (leave it in the queue; the default where the queue is durable).
        drain_timeout: seconds that leaving may take.

    Raises:
        ValueError, TypeError: arguments that make no sense, each named.
    """

    @overload
    def __init__(
        self: BatchDispatcher[ApiRequest, Answer],
        batch_handler: BatchHandlerLike | Sequence[BatchHandlerLike],
        queue: RequestQueue | RequestQueueLike | None = None,
        queue_threshold: int | None = None,
        time_threshold: float | None = None,
        time_interval: float = 600,
        requests_type: Literal["partial", "full"] = "partial",
        request_kwargs: Mapping[str, Any] | None = None,
        *,
        size_threshold: int | None = None,
        idle_threshold: float | None = _DEFAULT,
        max_pending: int = 1_000_000,
        dispatch_workers: int = 1,
        on_exit: Literal["flush", "leave"] | None = None,
        drain_timeout: float = 30,
    ) -> None: ...

    @overload
    def __init__(
        self,
        batch_handler: Callable[[list[RequestT]], Awaitable[Sequence[AnswerT | Exception]]],
        queue: RequestQueue | RequestQueueLike | None = None,
        queue_threshold: int | None = None,
        time_threshold: float | None = None,
        time_interval: float = 600,
        requests_type: Literal["partial", "full"] = "partial",
        request_kwargs: Mapping[str, Any] | None = None,
        *,
        size_threshold: int | None = None,
        idle_threshold: float | None = _DEFAULT,
        max_pending: int = 1_000_000,
        dispatch_workers: int = 1,
        on_exit: Literal["flush", "leave"] | None = None,
        drain_timeout: float = 30,
    ) -> None: ...

    def __init__(  # noqa: PLR0917 (names and order are langbatch's)
        self,
        batch_handler: Any,
        queue: Any = None,
        queue_threshold: int | None = None,
        time_threshold: float | None = None,
        time_interval: float = 600,
        requests_type: Literal["partial", "full"] = "partial",
        request_kwargs: Mapping[str, Any] | None = None,
        *,
        size_threshold: int | None = None,
        idle_threshold: float | None = _DEFAULT,
        max_pending: int = 1_000_000,
        dispatch_workers: int = 1,
        on_exit: Literal["flush", "leave"] | None = None,
        drain_timeout: float = 30,
    ) -> None:
        self._handlers = as_handlers(batch_handler)
        self._function = None if self._handlers else batch_handler
        function = self._function is not None
        check_choice("requests_type", requests_type, ("partial", "full"))
        check_choice("on_exit", on_exit, ("flush", "leave", None))
        check_counts(
            queue_threshold=queue_threshold,
            size_threshold=size_threshold,
            max_pending=max_pending,
            dispatch_workers=dispatch_workers,
        )
        check_seconds(
            time_threshold=time_threshold,
            time_interval=time_interval,
            drain_timeout=drain_timeout,
            idle_threshold=None if idle_threshold is _DEFAULT else idle_threshold,
        )
        self._partial = requests_type == "partial"
        self._settings = dict(request_kwargs or {})
        self._count = queue_threshold or (500 if function else 50_000)
        self._age = time_threshold if time_threshold is not None else (0.01 if function else 7_200)
        self._size = size_threshold
        self._idle = (None if function else 5.0) if idle_threshold is _DEFAULT else idle_threshold
        self._max_pending = max_pending
        self._workers = dispatch_workers
        self._drain_timeout = drain_timeout
        self._queue = as_leasing(queue, time_interval)
        self._on_exit = on_exit or ("leave" if self._queue.durable else "flush")
        if function and not isinstance(self._queue, InMemoryRequestQueue):
            raise TypeError(
                f"a function takes requests as they are, from a queue in memory, not from "
                f"{type(queue).__name__}; use InMemoryRequestQueue(), or a BatchHandler"
            )
        if function and size_threshold is not None:
            raise ValueError("a function's requests have no size; leave size_threshold out")
        self._used = False
        self._life: Life | None = None

    @property
    def queue(self) -> LeasingQueue:
        """The queue given, or the adapter of a plain or langbatch one, with the dead letters."""
        return self._queue

    # Entering and leaving

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Enter, dispatch until cancelled, leave: `await tg.start(d.run)`.

        Raises:
            RuntimeError: it was entered before.
            DispatcherCrashed: one of its tasks raised.
        """
        async with self:
            task_status.started()
            await anyio.sleep_forever()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._used:
            raise RuntimeError("a dispatcher is entered once; make a new one")
        self._used = True  # before the first await: two tasks may enter at once
        async with AsyncExitStack() as stack:
            handlers = [
                await stack.enter_async_context(h.entered_for(self)) for h in self._handlers
            ]
            await stack.enter_async_context(self._queue)
            life = await self._new_life(handlers)
            self._life = life
            try:
                async with self._tasks_of(life):
                    yield self
            finally:
                life.admission.close_intake(anyio.ClosedResourceError)
                await life.end()  # noqa: ASYNC102 - shielded in there, a lease at a time

    @asynccontextmanager
    async def _tasks_of(self, life: Life) -> AsyncGenerator[None]:
        """The task group. A body's error leaves it bare; a crash of ours as one error."""
        error: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                life.start(tasks)
                try:
                    yield
                    await self._leave(life)
                except (Exception, KeyboardInterrupt, SystemExit) as raised:  # noqa: BLE001 - bare, below
                    error = raised
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            life.admission.close_intake(anyio.BrokenResourceError)
            raise _crash(group) from _with(group, error)
        if error is not None:
            raise error

    async def _leave(self, life: Life) -> None:
        life.admission.close_intake(anyio.ClosedResourceError)
        if self._on_exit == "flush":
            await life.drain(self._drain_timeout)
        else:
            await life.finish_leased(self._drain_timeout)

    async def _new_life(self, handlers: Sequence[HandlerLike]) -> Life:
        waiters = Waiters(self._idle, self._age)
        intake: FunctionIntake | ProviderIntake
        if self._function is not None:
            await self._queue.keep_profile("function")
            intake = FunctionIntake()
            terms = Terms(self._count, None, self._age)
            delivery: Any = FunctionDelivery(self._queue, self._function)
        else:
            provider = handlers[0].provider
            await self._queue.keep_profile(provider.profile)
            limits = attrs.evolve(
                provider.limits,
                requests=min(self._count, provider.limits.requests),
                size=min(self._size or provider.limits.size, provider.limits.size),
            )
            intake = ProviderIntake(
                provider, partial=self._partial, settings=self._settings, size=limits.size
            )
            stores = frozenset(handler.store_id for handler in handlers)
            terms = Terms(limits.requests, limits.size, self._age, limits.minimum, stores=stores)
            delivery = HandOver(self._queue, intake, handlers, limits, self._find_receipt)
        return Life(
            self._queue,
            Admission(
                self._queue,
                intake,
                waiters,
                self._max_pending,
                until_settled=self._function is not None,
            ),
            delivery,
            lambda: terms,
            workers=self._workers,
            wait_room=_room_of(handlers),
        )

    def _find_receipt(self, custom_id: str) -> Receipt[Any] | None:
        return self._life.admission.find_receipt(custom_id) if self._life else None

    def _entered(self) -> Life:
        life = self._life
        if life is None:
            raise RuntimeError(
                "the dispatcher has not been entered: `async with dispatcher`, or `await "
                "tg.start(dispatcher.run)` (after asyncio.create_task() it takes a moment)"
            )
        admission = life.admission
        if admission.closed is not None:
            raise admission.closed()
        if admission.thread != threading.get_ident():
            raise RuntimeError(
                "called from another thread; use `anyio.from_thread.run(dispatcher.submit, request)`"
            )
        return life

    # Submitting

    async def submit(self, request: RequestT, *, custom_id: str | None = None) -> Receipt[AnswerT]:
        """Take one request; `await` what it returns for the answer.

        Waits in line while `max_pending` requests are queued or leased. Cancelled: not queued (a
        durable queue's write that is on its way may still land).

        Args:
            request: a partial or full request, a `RawRequest`, or what the function takes.
            custom_id: its id; drawn if None.

        Raises:
            RequestRejected: it cannot be sent; the message says why.
            RuntimeError: the dispatcher has not been entered, or from another thread.
            ClosedResourceError, BrokenResourceError: it was left, or has crashed.
        """
        admission = self._entered().admission
        receipt, given = admission.receipt(request, custom_id)
        await anyio.lowlevel.checkpoint()
        if not admission.admit_nowait(receipt, given):
            await admission.admit((receipt,), (receipt,) if given else ())
        return receipt

    def submit_nowait(self, request: RequestT, *, custom_id: str | None = None) -> Receipt[AnswerT]:
        """Take one request at once, into a queue in memory.

        Raises:
            WouldBlock: the queue is full, or somebody stands in line.
            TypeError: the queue is not in memory.
            RequestRejected, RuntimeError, ClosedResourceError: as `submit`.
        """
        admission = self._entered().admission
        if admission.memory is None:
            raise TypeError(
                f"{type(self._queue).__name__} is not in memory, so adding to it may wait; use "
                "`await submit()`"
            )
        receipt, given = admission.receipt(request, custom_id)
        if not admission.admit_nowait(receipt, given):
            raise anyio.WouldBlock
        return receipt

    async def submit_many(self, requests: Iterable[RequestT]) -> list[Receipt[AnswerT]]:
        """Take all requests, or none: all are checked first, then queued in one step.

        Cancelled: none was queued (a durable queue may keep a prefix).

        Raises:
            ValueError: more than `max_pending`.
            RequestRejected, RuntimeError, ClosedResourceError: as `submit`.
        """
        admission = self._entered().admission
        receipts: list[Receipt[Any]] = []
        given: list[Receipt[Any]] = []
        for number, request in enumerate(requests, 1):
            receipt, named = admission.receipt(request, None)
            receipts.append(receipt)
            given.extend([receipt] if named else ())
            if number % 2_000 == 0:
                await anyio.lowlevel.checkpoint()
        if len(receipts) > self._max_pending:
            raise ValueError(
                f"{len(receipts)} requests at once, but max_pending is {self._max_pending}; use "
                "process(), or submit smaller lists"
            )
        await anyio.lowlevel.checkpoint()
        if receipts and not admission.admit_all_nowait(receipts, given):
            await admission.admit(receipts, given)
        return receipts

    async def ask(self, request: RequestT, *, custom_id: str | None = None) -> AnswerT:
        """Submit, and return the answer. Cancelled while it is queued in memory: taken back.

        Raises:
            RequestFailed, RequestAbandoned, ResultUnavailable: as awaiting a receipt.
            RequestRejected, RuntimeError, ClosedResourceError: as `submit`.
        """
        receipt = await self.submit(request, custom_id=custom_id)
        try:
            return await receipt
        except anyio.get_cancelled_exc_class():
            receipt.cancel()
            raise

    def process(
        self,
        requests: Iterable[RequestT] | AsyncIterable[RequestT],
        *,
        ordered: bool = False,
    ) -> Answers[AnswerT]:
        """Submit a source's requests, and yield their answers as they come.

        It takes no more than `max_pending` requests ahead of its consumer. When the source ends,
        all is dispatched at once. Left early, it takes no more from the source; what it submitted
        stays submitted.

        Args:
            requests: any iterable or asynchronous iterable.
            ordered: whether answers keep the source's order.

        Raises:
            RequestAbandoned, ResultUnavailable: after all other answers.
            RequestRejected, and what the source raises: after the answers to what was submitted.
        """
        life = self._entered()
        conveyor: Conveyor[RequestT, AnswerT] = Conveyor(
            requests,
            self.submit,
            life.flush_soon,
            left=life.admission.closed_error,
            bound=self._max_pending,
            ordered=ordered,
        )
        return Answers(
            conveyor, lambda: life.start_task(conveyor.feed, conveyor.end, "process source")
        )

    async def flush(self) -> None:
        """Return when all that the queue had accepted at the call is handed over.

        It ignores thresholds, not back-off. Cancelling it changes nothing.

        Raises:
            FlushHeld: something is held until somebody decides.
            RuntimeError, ClosedResourceError, BrokenResourceError: as `submit`.
        """
        life = self._entered()
        with life.admission.until_left():
            await life.flush()

    def statistics(self) -> DispatcherStatistics:
        """The counters now; a durable queue's are those of the last look."""
        life, queue = self._life, self._queue
        snapshot = getattr(queue, "snapshot", QueueStatistics)()
        return DispatcherStatistics(
            requests_queued=snapshot.requests_queued,
            bytes_queued=snapshot.bytes_queued,
            oldest_age=snapshot.oldest_age,
            requests_leased=snapshot.requests_leased,
            requests_submitted=life.admission.submitted if life else 0,
            requests_dispatched=life.leases.requests_dispatched if life else 0,
            batches_dispatched=life.leases.batches_dispatched if life else 0,
            submitters_waiting=life.admission.submitters_waiting if life else 0,
            requests_dead=snapshot.requests_dead,
            cuts=dict(life.cuts) if life else {},
            dispatch_failures=life.leases.failures if life else 0,
            as_of=time.time(),
        )


def _room_of(handlers: Sequence[HandlerLike]) -> Callable[[], Awaitable[None]]:
    """Wait until one of the handlers has room."""

    async def wait_room() -> None:
        while handlers and all(room is not None and room <= 0 for room in rooms()):
            async with anyio.create_task_group() as tasks:
                for handler in handlers:
                    tasks.start_soon(first, handler, tasks.cancel_scope)

    async def first(handler: HandlerLike, scope: anyio.CancelScope) -> None:
        await handler.wait_room()
        scope.cancel()

    def rooms() -> list[int | None]:
        return [handler.room() for handler in handlers]

    return wait_room


def _with(group: BaseExceptionGroup[Any], error: BaseException | None) -> BaseExceptionGroup[Any]:
    """The group, the body's error as its last member."""
    return group if error is None else group.derive([*group.exceptions, error])


def _crash(group: BaseExceptionGroup[Any]) -> BaseException:
    interrupt = group.subgroup((KeyboardInterrupt, SystemExit))
    while isinstance(interrupt, BaseExceptionGroup):
        inner: BaseException = interrupt.exceptions[0]
        if not isinstance(inner, BaseExceptionGroup):
            return inner
        interrupt = inner
    causes = "; ".join(f"{type(e).__name__}: {e}" for e in group.exceptions)
    return DispatcherCrashed(f"the dispatcher stopped: {causes}. What was queued stays queued")


__all__ = ["ApiRequest", "BatchDispatcher"]
