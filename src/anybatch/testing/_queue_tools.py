"""What the queue contract's checks have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from .._encoding import decode
from .._models import Lease, Member, Plan, PlanPart, Ranges, Terms
from ..abc import LeasingQueue

BOUND = 1_000
MOMENT = 0.1  # seconds; on a virtual clock they pass at once
LONG = 30.0  # seconds after which a wait that should have ended has failed


def elements(*numbers: int) -> list[bytes]:
    """Elements that can be told apart, of seven bytes each where the number has one digit."""
    return [b'{"n":%d}' % number for number in numbers]


def number_of(element: bytes) -> int:
    """The number that `elements` put in."""
    number: int = decode(element)["n"]
    return number


async def fill(queue: LeasingQueue, *numbers: int) -> int:
    """Add elements; returns the log number of the first."""
    return await queue.add(elements(*numbers), bound=BOUND)


async def everything(queue: LeasingQueue, count: int = BOUND, *stores: str) -> Terms:
    """Terms on which all that is in the queue now is due."""
    return Terms(count, position=await queue.position(), stores=frozenset(stores))


async def must_lease(queue: LeasingQueue, terms: Terms | None = None) -> Lease:
    """Lease what has to be due."""
    lease = await queue.lease(await everything(queue) if terms is None else terms)
    assert lease is not None, "nothing was leased, though it is due"
    return lease


async def members_of(
    queue: LeasingQueue, lease: Lease, ranges: Ranges | None = None
) -> list[Member]:
    """All members of a lease, in order; no chunk is too large."""
    members: list[Member] = []
    async for chunk in queue.read(lease, ranges):
        assert 0 < len(chunk) <= 2_000
        members.extend(chunk)
    return members


async def numbers_of(queue: LeasingQueue, lease: Lease, ranges: Ranges | None = None) -> list[int]:
    """What `elements` put into the members of a lease."""
    return [number_of(member.element) for member in await members_of(queue, lease, ranges)]


async def drained(queue: LeasingQueue, *stores: str) -> list[int]:
    """Lease and acknowledge until nothing is left; what was in, in order of leasing."""
    numbers: list[int] = []
    while (lease := await queue.lease(await everything(queue, BOUND, *stores))) is not None:
        numbers += await numbers_of(queue, lease)
        await queue.ack(lease)
    return numbers


def whole(lease: Lease, store: str) -> Plan:
    """A plan that makes one batch of the interval."""
    return Plan(store, (PlanPart(lease.id, ((lease.start, lease.stop),), "/v1/test"),))


async def refused(
    call: Callable[[], Awaitable[object]], error: type[Exception], *words: str
) -> None:
    """The call has to raise this error, and its message to say these words."""
    try:
        await call()
    except error as raised:
        missing = [word for word in words if word not in str(raised)]
    else:
        raise AssertionError(f"no {error.__name__} was raised")
    assert not missing, f"the message does not say {missing}"


class Task:
    """Something that runs beside the check: whether it is done, and with what."""

    def __init__(self, function: Callable[[], Awaitable[object]]) -> None:
        self._function = function
        self._done = anyio.Event()
        self.error: Exception | None = None
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        """Run it; an exception is kept."""
        with self.scope:
            try:
                await self._function()
            except Exception as error:  # noqa: BLE001 (the check looks at it)
                self.error = error
            self._done.set()

    async def done(self) -> None:
        """Wait until it is done; that it ends at all is part of the contract."""
        with anyio.fail_after(LONG):
            await self._done.wait()

    async def waits(self) -> bool:
        """Whether it still waits after a moment."""
        await anyio.sleep(MOMENT)
        return not self._done.is_set()


@asynccontextmanager
async def beside(
    *functions: Callable[[], Awaitable[object]],
) -> AsyncGenerator[Sequence[Task]]:
    """Start functions beside the check, in their order, each waiting before the next starts."""
    tasks = [Task(function) for function in functions]
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task.run, name="queue contract")  # noqa: ASYNC113 - it may begin at any time: what is asked waits for it
            await anyio.sleep(MOMENT)
        yield tasks
        group.cancel_scope.cancel()
