"""Every queue keeps the one contract."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from langbatch.request_queues import InMemoryRequestQueue as LangbatchQueue

from anybatch._exceptions import LeaseLost
from anybatch._models import Lease, Plan, Terms
from anybatch.abc import LeasingQueue
from anybatch.request_queues import InMemoryRequestQueue
from anybatch.testing._queue_tools import refused
from anybatch.testing.queue_contract import LeasingQueueContract
from tests.queues.outside import AsyncQueue, LooseQueue, PlainQueue, adapted

pytestmark = pytest.mark.anyio


class TestInMemoryRequestQueue(LeasingQueueContract):
    @pytest.fixture
    def make_queue(self) -> Callable[[], LeasingQueue]:
        return InMemoryRequestQueue


class TestAdaptedQueue(LeasingQueueContract):
    withdraws = False

    @pytest.fixture(params=[PlainQueue, AsyncQueue, LooseQueue, LangbatchQueue])
    def make_queue(self, request: pytest.FixtureRequest) -> Callable[[], LeasingQueue]:
        queue: Any = request.param
        return lambda: adapted(queue())


async def obedient() -> None:
    pass


async def test_the_suite_fails_a_queue_that_does_not_refuse() -> None:
    with pytest.raises(AssertionError, match="no LeaseLost was raised"):
        await refused(obedient, LeaseLost)


async def test_the_suite_fails_a_queue_that_stands_still() -> None:
    class Deaf(InMemoryRequestQueue):
        async def wait_due(self, terms: Terms) -> None:
            await anyio.sleep_forever()

    with pytest.raises((TimeoutError, ExceptionGroup)):
        await LeasingQueueContract().test_crossing_the_count_wakes_the_watcher(Deaf)


async def test_the_suite_fails_a_queue_that_forgets_to_hand_on_its_plan() -> None:
    class Forgetful(InMemoryRequestQueue):
        async def plan(self, lease: Lease, plan: Plan) -> Lease:
            return lease

    with pytest.raises(AssertionError):
        await LeasingQueueContract().test_the_first_plan_stands(Forgetful)
