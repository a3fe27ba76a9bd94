"""How the members of an interval become batches: pure functions of what the members are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from ._models import Head, Limits, Ranges


@attrs.define(eq=False)
class Pack:
    """Requests that share a file: one endpoint, one model, no custom id twice, within limits."""

    group: tuple[str, str]
    numbers: list[int] = attrs.field(factory=list[int])
    custom_ids: dict[str, None] = attrs.field(factory=dict[str, None])
    size: int = 0
    inputs: int = 0

    def takes(self, head: Head, limits: Limits) -> bool:
        """Whether the request fits; in doubt about its id, another file is safe."""
        return head.custom_id not in self.custom_ids and self.has_room(head, limits)

    def has_room(self, head: Head, limits: Limits) -> bool:
        """Whether count, bytes and inputs would stay within limits."""
        return (
            len(self.numbers) < limits.requests
            and self.size + head.size <= limits.size
            and (limits.inputs is None or self.inputs + head.inputs <= limits.inputs)
        )

    def add(self, head: Head) -> None:
        """Put the request in."""
        self.numbers.append(head.number)
        self.custom_ids[head.custom_id] = None
        self.size += head.size
        self.inputs += head.inputs


def pack(heads: Iterable[Head], limits: Limits) -> list[Pack]:
    """Put requests into as few files as their order allows, first come first.

    A file is closed for its group at the first request that it has no room for, so that a batch
    holds neighbours; a custom id that a file has already goes into the group's next one.

    Args:
        heads: in the order of the log.
        limits: what no file exceeds; a request beyond them alone gets a file of its own.
    """
    packs: list[Pack] = []
    open_packs: dict[tuple[str, str], list[Pack]] = {}
    for head in heads:
        candidates = open_packs.setdefault(head.group, [])
        target = next((p for p in candidates if p.takes(head, limits)), None)
        if target is None:
            target = Pack(head.group)
            packs.append(target)
            candidates[:] = [p for p in candidates if p.has_room(head, limits)]
            candidates.append(target)
        target.add(head)
    return packs


def as_ranges(numbers: Sequence[int]) -> Ranges:
    """Ascending log numbers as half-open ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return tuple(ranges)


def part_id(interval_id: str, position: int) -> str:
    """The id of an interval's batch at this position, from 0: the first has the interval's."""
    return interval_id if position == 0 else f"{interval_id}-{position + 1}"


def most_room(rooms: Sequence[tuple[int | None, int]]) -> int | None:
    """Which handler gets the next batch.

    Args:
        rooms: of each handler, how many batches it takes now (None: no limit) and how many live.

    Returns:
        The position of the one with the most room, ties broken by the fewest live batches and
        then by position; None where nobody has any.
    """
    best: tuple[float, int, int] | None = None
    for position, (room, live) in enumerate(rooms):
        rank = (float("inf") if room is None else float(room), -live, -position)
        if rank[0] > 0 and (best is None or rank > best):
            best = rank
    return None if best is None else -best[2]
