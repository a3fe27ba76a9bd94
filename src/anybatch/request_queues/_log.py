"""The log in memory and its intervals: every decision of the queue, plain and synchronous."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import attrs

from .._exceptions import LeaseLost
from .._models import Backlog, CutReason, Lease, Member, Plan, Ranges, Terms


class Record(Protocol):
    """What the log holds of a request; the receipt of whoever submitted it, where there is one."""

    element: Any
    number: int
    time: float


@attrs.define(eq=False)
class Interval:
    """A batch that was cut and is not acknowledged: leased, or waiting to be leased again."""

    id: str
    start: int
    stop: int
    size: int
    reason: CutReason
    records: dict[int, Record]
    token: str = ""  # empty while nobody has the lease
    leases: int = 0
    ready: float = 0.0  # when it may be leased again
    plan: Plan | None = None

    def lease(self) -> Lease:
        """What its owner holds."""
        return Lease(
            self.id,
            self.start,
            self.stop,
            len(self.records),
            self.size,
            self.token,
            self.reason if self.leases == 1 else CutReason.AGAIN,
            self.plan,
        )


def size_of(record: Record) -> int:
    """The bytes of a record's line with its newline; a function's request has none."""
    element = record.element
    return len(element) + 1 if type(element) is bytes else 0


class IntervalLog:
    """Requests by log number: withdrawn, cut into intervals, acknowledged; counted throughout."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.head: int = 0
        self.queued: int = 0
        self.size: int = 0
        self.leased: int = 0
        self.intervals: dict[str, Interval] = {}
        self._records: list[Record | None] = []  # None: withdrawn, or cut
        self._base = 0  # the log number of _records[0]
        self._last_cut = 0

    @property
    def tail(self) -> int:
        """The log number that the next record gets."""
        return self._base + len(self._records)

    @property
    def held(self) -> int:
        """Requests queued or leased: what a bound is compared with."""
        return self.queued + self.leased

    def append(self, record: Record, now: float) -> None:
        """Put a record at the tail."""
        record.number = self._base + len(self._records)
        record.time = now
        self._records.append(record)
        self.queued += 1
        self.size += size_of(record)

    def oldest(self) -> Record | None:
        """The first record that is queued."""
        records, base = self._records, self._base
        while self.head < base + len(records):
            record = records[self.head - base]
            if record is not None:
                return record
            self.head += 1
        if records:  # all of them withdrawn: a list of Nones would grow for ever
            self._base += len(records)
            records.clear()
        return None

    def withdraw(self, number: int) -> bool:
        """Take a record out again, if it was not cut."""
        if not self.head <= number < self.tail:
            return False
        record = self._records[number - self._base]
        if record is None:
            return False
        self._records[number - self._base] = None
        self.queued -= 1
        self.size -= size_of(record)
        self.oldest()
        return True

    def cut(self, terms: Terms, reason: CutReason) -> Interval:
        """Move the head: as many records as the terms' count and bytes allow, at least one."""
        records = list(self._fitting(terms))
        start, stop = self.head, records[-1].number + 1
        size = sum(map(size_of, records))
        self._last_cut = max(self._last_cut + 1, time.time_ns() // 1000)
        interval_id = f"{self.uid}-{self._last_cut}-{start}"
        interval = Interval(
            interval_id, start, stop, size, reason, {record.number: record for record in records}
        )
        self.intervals[interval_id] = interval
        self.queued -= len(records)
        self.size -= size
        self.leased += len(records)
        self._forget_below(stop)
        return interval

    def _fitting(self, terms: Terms) -> Iterator[Record]:
        count = size = 0
        for index in range(self.head - self._base, len(self._records)):
            record = self._records[index]
            if record is None:
                continue
            size += size_of(record)
            too_large = terms.size is not None and size > terms.size
            if count == terms.count or (too_large and count):
                return
            count += 1
            yield record

    def _forget_below(self, head: int) -> None:
        # In place, so that receipts are let go of; the list is shortened once half of it is empty.
        cut = head - self._base
        start = self.head - self._base
        self._records[start:cut] = [None] * (cut - start)
        self.head = head
        if (cut >= 1024 and 2 * cut > len(self._records)) or cut == len(self._records):
            del self._records[:cut]
            self._base = head

    def take(self, interval: Interval) -> Lease:
        """Hand an interval to a new owner, under a new token."""
        interval.leases += 1
        interval.token = str(interval.leases)
        return interval.lease()

    def take_all(self) -> list[Interval]:
        """Lease everything that nobody has, planned or not: what is queued becomes one interval."""
        if self.queued:
            self.cut(Terms(count=self.queued), CutReason.CLOSE)
        free = [interval for interval in self.intervals.values() if not interval.token]
        for interval in free:
            self.take(interval)
        return free

    def again(self, stores: frozenset[str], now: float) -> Interval | None:
        """The first interval that was released, may be leased now, and can be executed here."""
        return next((i for i in self.waiting(stores) if i.ready <= now), None)

    def waiting(self, stores: frozenset[str]) -> Iterable[Interval]:
        """Released intervals that can be executed here, in the order of the log."""
        return (
            i
            for i in self.intervals.values()
            if not i.token and (i.plan is None or i.plan.store in stores)
        )

    @property
    def released(self) -> int:
        """Requests of intervals that nobody has and that have no plan: anybody's, like queued ones."""
        return sum(len(interval.records) for interval in self.waiting(frozenset()))

    def take_out(self, count: int) -> list[Record]:
        """Up to `count` records for good, released ones first: they are the older ones."""
        taken: list[Record] = []
        for interval in list(self.waiting(frozenset())):
            for number in list(interval.records)[: count - len(taken)]:
                record = interval.records.pop(number)
                interval.size -= size_of(record)
                self.leased -= 1
                taken.append(record)
            if not interval.records:
                del self.intervals[interval.id]
        if self.queued and len(taken) < count:
            terms = Terms(count=count - len(taken), position=self.tail)
            lease = self.take(self.cut(terms, CutReason.FLUSH))
            taken.extend(self.intervals[lease.id].records.values())
            del self.intervals[lease.id]
            self.leased -= lease.count
        return taken

    def shift(self, seconds: float) -> None:
        """The clock is another from now on: re-base when intervals may be leased again."""
        for interval in self.intervals.values():
            interval.ready += seconds

    def out_of_reach(self, stores: frozenset[str]) -> dict[str, str]:
        """Held intervals and the stores of their plans, which are not among these."""
        return {
            i.id: i.plan.store
            for i in self.intervals.values()
            if not i.token and i.plan is not None and i.plan.store not in stores
        }

    def owned(self, lease: Lease) -> Interval:
        """The interval of a lease that still counts; raises `LeaseLost` otherwise."""
        interval = self.intervals.get(lease.id)
        if interval is None or interval.token != lease.token:
            raise LeaseLost(f"the lease on {lease.id} is over; somebody else may have it")
        return interval

    def release(self, lease: Lease, ready: float) -> None:
        """Give an interval back, to be leased again from `ready` on."""
        interval = self.owned(lease)
        interval.token = ""
        interval.ready = ready

    def forget(self, lease: Lease) -> None:
        """Acknowledge: the interval is gone; one that is gone already stays so."""
        if lease.id in self.intervals:
            self.owned(lease)
            interval = self.intervals.pop(lease.id)
            self.leased -= len(interval.records)
            for record in interval.records.values():
                record.element = None  # whoever still holds a receipt does not hold its line

    def bury(self, lease: Lease, number: int) -> Record | None:
        """Take one member out of an interval, which keeps its bounds."""
        interval = self.owned(lease)
        record = interval.records.pop(number, None)
        if record is not None:
            interval.size -= size_of(record)
            self.leased -= 1
        return record

    def members(self, lease: Lease, ranges: Ranges | None) -> Sequence[Member]:
        """The members of an interval, or those of them within the ranges."""
        records = self.owned(lease).records
        if ranges is None or ranges == ((lease.start, lease.stop),):
            return [Member(n, r.element, r) for n, r in records.items()]
        numbers = (n for start, stop in ranges for n in range(start, stop) if n in records)
        return [Member(n, records[n].element, records[n]) for n in numbers]

    def passed(self, position: int) -> bool:
        """Whether nothing below this log number is queued or leased."""
        self.oldest()
        return self.head >= position and all(
            interval.start >= position for interval in self.intervals.values()
        )

    def backlog(self, *, oldest: float, now: float, blocked: bool) -> Backlog:
        """What is queued, as the terms are asked about it."""
        return Backlog(self.queued, self.size, oldest, now, self.head, blocked)

    def records(self) -> Iterator[Record]:
        """Everything queued or leased, in the order of the log."""
        for interval in list(self.intervals.values()):
            yield from list(interval.records.values())
        yield from [record for record in self._records if record is not None]
