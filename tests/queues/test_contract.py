"""Every queue keeps the one contract."""

from collections.abc import Callable
from typing import Any

import pytest
from langbatch.request_queues import InMemoryRequestQueue as LangbatchQueue

from anybatch.abc import LeasingQueue
from anybatch.request_queues import InMemoryRequestQueue
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
