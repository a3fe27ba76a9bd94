"""The log in memory beside a plain list that says what each request's state is."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from anybatch._exceptions import LeaseLost
from anybatch._models import Backlog, CutReason, Lease, Plan, Terms
from anybatch.request_queues._log import IntervalLog
from anybatch.request_queues.memory import Element

STORES = frozenset({"here"})


class LogMachine(RuleBasedStateMachine):
    """Every operation on the log, and the same on a list: number → (state, bytes)."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.log = IntervalLog("uid")
        self.states: list[str] = []  # queued, withdrawn, an interval's id, acked, buried
        self.sizes: list[int] = []
        self.tokens: dict[str, str] = {}
        self.plans: dict[str, str] = {}
        self.ready: dict[str, float] = {}
        self.now = 0.0

    def numbers(self, state: str) -> list[int]:
        return [number for number, now in enumerate(self.states) if now == state]

    def owns(self, lease: Lease) -> bool:
        return self.tokens.get(lease.id) == lease.token

    @rule(sizes=st.lists(st.integers(0, 9), max_size=8))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            record = Element(b"x" * size)
            self.log.append(record, self.now)
            assert record.number == len(self.states)
            assert record.time == self.now
            self.states.append("queued")
            self.sizes.append(size + 1)

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(data=st.data())
    def withdraw(self, data: Any) -> None:
        number = data.draw(st.integers(-1, len(self.states)))
        known = 0 <= number < len(self.states) and self.states[number] == "queued"
        assert self.log.withdraw(number) is known
        if known:
            self.states[number] = "withdrawn"

    @rule(target=leases, count=st.integers(1, 6), size=st.none() | st.integers(1, 30))
    def cut(self, count: int, size: int | None) -> Any:
        queued = self.numbers("queued")
        if not queued:
            assert self.log.oldest() is None
            return Lease("none", 0, 0, 0, 0, "1", CutReason.COUNT)
        lease = self.log.take(self.log.cut(Terms(count, size), CutReason.COUNT))
        members = [m.number for m in self.log.members(lease, None)]
        assert members == queued[: len(members)]
        total = sum(self.sizes[n] for n in members)
        assert (lease.count, lease.size) == (len(members), total)
        assert len(members) <= count
        assert size is None or total <= size or len(members) == 1
        following = queued[len(members) :]
        full = len(members) == count or (
            size is not None and bool(following) and total + self.sizes[following[0]] > size
        )
        assert full or not following
        assert lease.start <= members[0] < members[-1] + 1 == lease.stop
        for number in members:
            self.states[number] = lease.id
        self.tokens[lease.id] = lease.token
        return lease

    @rule(target=leases)
    def lease_again(self) -> Any:
        free = [
            i
            for i, token in self.tokens.items()
            if not token and self.plans.get(i, "here") == "here" and self.ready[i] <= self.now
        ]
        interval = self.log.again(STORES, self.now)
        if not free:
            assert interval is None
            return Lease("none", 0, 0, 0, 0, "1", CutReason.COUNT)
        assert interval is not None
        assert interval.id == free[0]
        lease = self.log.take(interval)
        assert lease.reason is CutReason.AGAIN
        assert (lease.plan.store if lease.plan else None) == self.plans.get(lease.id)
        self.tokens[lease.id] = lease.token
        return lease

    @rule(lease=leases, delay=st.integers(0, 3))
    def release(self, lease: Lease, delay: int) -> None:
        if not self.owns(lease):
            with pytest.raises(LeaseLost):
                self.log.release(lease, self.now)
            return
        self.log.release(lease, self.now + delay)
        self.tokens[lease.id] = ""
        self.ready[lease.id] = self.now + delay

    @rule(lease=leases, store=st.sampled_from(["here", "elsewhere"]))
    def plan(self, lease: Lease, store: str) -> None:
        if self.owns(lease):
            interval = self.log.owned(lease)
            if interval.plan is None:
                interval.plan = Plan(store, ())
                self.plans[lease.id] = store

    @rule(lease=consumes(leases))
    def ack(self, lease: Lease) -> None:
        if lease.id in self.tokens and not self.owns(lease):
            with pytest.raises(LeaseLost):
                self.log.forget(lease)
            return
        self.log.forget(lease)
        self.log.forget(lease)
        self.tokens.pop(lease.id, None)
        for number in self.numbers(lease.id):
            self.states[number] = "acked"

    @rule(lease=leases, data=st.data())
    def bury(self, lease: Lease, data: Any) -> None:
        if not self.owns(lease):
            with pytest.raises(LeaseLost):
                self.log.bury(lease, lease.start)
            return
        number = data.draw(st.integers(lease.start, lease.stop))
        inside = number < len(self.states) and self.states[number] == lease.id
        assert (self.log.bury(lease, number) is not None) is inside
        if inside:
            self.states[number] = "buried"

    @rule(lease=leases, data=st.data())
    def read(self, lease: Lease, data: Any) -> None:
        if self.owns(lease):
            start = data.draw(st.integers(lease.start, lease.stop))
            stop = data.draw(st.integers(start, lease.stop))
            found = [m.number for m in self.log.members(lease, ((start, stop),))]
            assert found == [n for n in self.numbers(lease.id) if start <= n < stop]

    @invariant()
    def each_request_is_counted_once(self) -> None:
        queued = self.numbers("queued")
        leased = [n for n, state in enumerate(self.states) if state in self.tokens]
        assert self.log.tail == len(self.states)
        assert (self.log.queued, self.log.leased) == (len(queued), len(leased))
        assert self.log.held == len(queued) + len(leased)
        assert self.log.size == sum(self.sizes[n] for n in queued)
        assert [record.number for record in self.log.records()] == leased + queued

    @invariant()
    def the_oldest_is_the_first_that_is_queued(self) -> None:
        oldest = self.log.oldest()
        assert [oldest.number if oldest else None] == (self.numbers("queued") or [None])[:1]

    @invariant()
    def a_position_is_passed_when_nothing_below_it_lives(self) -> None:
        for position in range(len(self.states) + 1):
            queued = any(n < position for n in self.numbers("queued"))
            leased = any(i.start < position for i in self.log.intervals.values())
            assert self.log.passed(position) is not (queued or leased)

    @invariant()
    def held_are_the_free_ones_with_anothers_plan(self) -> None:
        assert self.log.out_of_reach(STORES) == {
            i: self.plans[i]
            for i, token in self.tokens.items()
            if not token and self.plans.get(i, "here") != "here"
        }


TestLogMachine = LogMachine.TestCase

counts = st.integers(0, 20)
backlogs = st.builds(
    Backlog,
    count=counts,
    size=st.integers(0, 100),
    oldest=st.integers(0, 50).map(float),
    now=st.integers(0, 50).map(float),
    head=st.integers(0, 10),
    blocked=st.booleans(),
)
terms_of = st.builds(
    Terms,
    count=st.integers(1, 20),
    size=st.none() | st.integers(1, 100),
    age=st.none() | st.integers(0, 50).map(float),
    minimum=st.integers(1, 5),
    position=st.integers(0, 10),
    reason=st.sampled_from([CutReason.FLUSH, CutReason.CLOSE, CutReason.IDLE]),
)


@given(terms_of, backlogs)
def test_each_reason_to_cut_is_true(terms: Terms, backlog: Backlog) -> None:
    reason = terms.due(backlog)
    if reason is None:
        return
    assert backlog.count > 0
    truth = {
        terms.reason: backlog.head < terms.position,
        CutReason.COUNT: backlog.count >= terms.count,
        CutReason.SIZE: terms.size is not None and backlog.size >= terms.size,
        CutReason.AGE: terms.age is not None and backlog.now - backlog.oldest >= terms.age,
        CutReason.BLOCKED: backlog.blocked,
    }
    assert truth[reason]
    assert reason is terms.reason or backlog.count >= terms.minimum


@given(terms_of, backlogs)
def test_what_is_not_due_has_no_reason(terms: Terms, backlog: Backlog) -> None:
    if terms.due(backlog) is not None or not backlog.count:
        return
    assert backlog.head >= terms.position
    if backlog.count >= terms.minimum:
        assert backlog.count < terms.count
        assert not backlog.blocked
        assert terms.size is None or backlog.size < terms.size
        assert terms.age is None or backlog.now < backlog.oldest + terms.age


@given(st.floats(0, 1e9), st.floats(0, 1e5))
def test_the_deadline_that_a_queue_waits_for_is_due(oldest: float, age: float) -> None:
    backlog = Backlog(1, 1, oldest, oldest + age, 0, blocked=False)
    assert Terms(2, age=age).due(backlog) is CutReason.AGE
