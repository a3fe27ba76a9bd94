"""Those who stand in line for room in a queue: room is given in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import attrs

from ._log import Record


@attrs.define(eq=False)
class Place:
    """A submitter's place in line."""

    count: int
    bound: int
    event: anyio.Event = attrs.field(factory=anyio.Event)
    granted: bool = False


@attrs.define(eq=False)
class ThreadPlace:
    """The place of a thread that has no event loop.

    Whoever gives it room puts its records in, so that the thread itself touches nothing.
    """

    count: int
    bound: int
    records: Sequence[Record]
    event: threading.Event = attrs.field(factory=threading.Event)
    granted: bool = False


class Line:
    """The line before a bounded queue, and the room that was given and is not yet used.

    Args:
        held: says how many requests the queue holds.
        append: puts in the records of a thread that has been given room.
        lock: what the threads among those who wait are ordered by.
    """

    def __init__(
        self,
        held: Callable[[], int],
        append: Callable[[Sequence[Record]], None] | None = None,
        lock: Any = None,
    ) -> None:
        self.places: deque[Place | ThreadPlace] = deque()
        self.reserved = 0
        self._held = held
        self._append = append
        self._lock = threading.RLock() if lock is None else lock

    def has_room(self, count: int, bound: int) -> bool:
        """Whether so many fit now without overtaking anybody."""
        return not self.places and self._held() + self.reserved + count <= bound

    async def stand(self, place: Place) -> None:
        """Wait until it is this place's turn and there is room, which is then in `reserved`."""
        self.places.append(place)
        try:
            await place.event.wait()
        except BaseException:
            self.leave(place)
            raise

    def leave(self, place: Place | ThreadPlace) -> None:
        """Give a place up, with the room it may have been given."""
        with self._lock:
            if not place.granted:
                self.places.remove(place)
            elif isinstance(place, Place):
                self.reserved -= place.count
        self.grant()

    def grant(self) -> None:
        """Give freed room to those in line, in their order; it is reserved until they wake."""
        if not self.places:
            return
        with self._lock:
            while self.places and self._fits(self.places[0]):
                self._give(self.places.popleft())

    def _fits(self, place: Place | ThreadPlace) -> bool:
        return self._held() + self.reserved + place.count <= place.bound

    def _give(self, place: Place | ThreadPlace) -> None:
        place.granted = True
        if isinstance(place, Place):
            self.reserved += place.count
        else:
            assert self._append is not None
            self._append(place.records)
        place.event.set()
