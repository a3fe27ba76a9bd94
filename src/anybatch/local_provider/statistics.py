"""What was asked of the provider and what was bought, for tests that count money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import field, frozen

from ._rows import Row


@frozen(kw_only=True)
class Statistics:
    """Counts since the provider's directory was made; restarts included.

    Attributes:
        calls: calls by route, such as `batches.create`, whatever became of them.
        uploads: files that were taken in.
        deletes: files that were deleted through the API.
        batches_created: creates that were accepted, whether the client learned of it or not.
        live_requests: requests that were answered outside of batches.
        rows_executed: rows of batches that were executed.
        rows_billed: those of them that were answered; the others were refused.
        asked: custom id → how often a row with it was executed.
        bought: custom id → how often a row with it was answered.
        bodies: digest of a request's body (see `body_digest`) → how often it was answered.
        tokens: tokens of all rows that were answered, in and out.
    """

    calls: Mapping[str, int] = field(factory=dict[str, int])
    uploads: int = 0
    deletes: int = 0
    batches_created: int = 0
    live_requests: int = 0
    rows_executed: int = 0
    rows_billed: int = 0
    asked: Mapping[str, int] = field(factory=dict[str, int])
    bought: Mapping[str, int] = field(factory=dict[str, int])
    bodies: Mapping[str, int] = field(factory=dict[str, int])
    tokens: int = 0

    @property
    def bought_twice(self) -> dict[str, int]:
        """Custom id → how often, for those that were bought more than once."""
        return {custom_id: n for custom_id, n in self.bought.items() if n > 1}

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object with the names of the attributes."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Statistics:
        """Return what `to_json` was made of, say in another process."""
        return cls(**value)


class Ledger:
    """Counts as things happen. Purely synchronous."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._bought: Counter[str] = Counter()
        self._bodies: Counter[str] = Counter()
        self._tokens = 0

    def create(self) -> None:
        """Count a batch accepted."""
        self._events["batches_created"] += 1

    def row(self, row: Row) -> None:
        """Count an executed row."""
        self._asked[row.custom_id] += 1
        if row.billed:
            self._bought[row.custom_id] += 1
            self._bodies[row.digest] += 1
            self._tokens += sum(row.tokens)

    def note(self, event: Mapping[str, Any]) -> None:
        """Count a line of the journal: a call of a `route`, or an `event` of its name."""
        if "route" in event:
            self._calls[event["route"]] += 1
        else:
            self._events[event["event"]] += 1

    def statistics(self) -> Statistics:
        """Return the counts of this moment."""
        return Statistics(
            calls=dict(self._calls),
            rows_executed=self._asked.total(),
            rows_billed=self._bought.total(),
            asked=dict(self._asked),
            bought=dict(self._bought),
            bodies=dict(self._bodies),
            tokens=self._tokens,
            **self._events,
        )
