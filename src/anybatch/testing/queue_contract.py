"""What every `LeasingQueue` does, as checks for a queue of your own.

Subclass the suite in a test module, and say how an empty queue is made::

    import pytest
    from anybatch.testing.queue_contract import LeasingQueueContract

    pytest.register_assert_rewrite("anybatch.testing")  # before the import: shows the values

    @pytest.mark.anyio
    class TestMyQueue(LeasingQueueContract):
        @pytest.fixture
        def make_queue(self):
            return MyQueue

The checks know nothing of pytest: each is an async method `test_…(make_queue)`, to be run on any
event loop. They wait for tenths of seconds, so a virtual clock (`anybatch.testing.clocks`) makes
them instant.
"""

from __future__ import annotations

from ._queue_leasing import LeasingChecks, MakeQueue
from ._queue_waiting import WaitingChecks

__all__ = ["LeasingQueueContract", "MakeQueue"]


class LeasingQueueContract(LeasingChecks, WaitingChecks):
    """The contract suite: each method takes `make_queue`, which makes a new, empty queue.

    Attributes:
        withdraws: whether the queue can take back a request that is queued; False for durable
            queues, whose requests outlive whoever submitted them.
    """
