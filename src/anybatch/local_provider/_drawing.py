"""A fault plan at work: which rule is next for a call, a batch, a row."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from random import Random

from .faults import BatchFault, CallFault, FaultPlan, RowFault

NO_FAULT = BatchFault()


class Faults:
    """Draws faults from a plan and counts what it has drawn. Purely synchronous.

    Args:
        plan: the rules.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self.replace(plan)

    def replace(self, plan: FaultPlan) -> None:
        """Take another plan; what was drawn is forgotten."""
        self.plan = plan
        self._random = Random(plan.seed)
        self._calls: Counter[int] = Counter()
        self._rows: Counter[tuple[int, str]] = Counter()

    def for_call(self, route: str) -> CallFault | None:
        """Draw the fault of one call; every rule that matches counts the call as seen."""
        drawn: CallFault | None = None
        for position, rule in enumerate(self.plan.calls):
            if fnmatchcase(route, rule.route):
                self._calls[position] += 1
                if drawn is None and self._strikes(rule, self._calls[position]):
                    drawn = rule
        return drawn

    def _strikes(self, rule: CallFault, nth: int) -> bool:
        nth -= rule.skip
        if nth < 1 or (rule.times is not None and nth > rule.times):
            return False
        return rule.chance >= 1 or self._random.random() < rule.chance

    def for_batch(self, number: int) -> BatchFault:
        """Return the fault of the batch that was created as the `number`-th."""
        for rule in self.plan.batches:
            if rule.nth is None or number in rule.nth:
                return rule
        return NO_FAULT

    def for_row(self, batch: int, index: int, custom_id: str) -> RowFault | None:
        """Draw the fault of one row that is about to be executed."""
        for position, rule in enumerate(self.plan.rows):
            if _concerns(rule, batch, index, custom_id):
                self._rows[position, custom_id] += 1
                if rule.times is None or self._rows[position, custom_id] <= rule.times:
                    return rule
        return None


def _concerns(rule: RowFault, batch: int, index: int, custom_id: str) -> bool:
    return (
        (rule.batch is None or batch in rule.batch)
        and (rule.index is None or index in rule.index)
        and (rule.every is None or index % rule.every == 0)
        and (rule.custom_id is None or fnmatchcase(custom_id, rule.custom_id))
    )
