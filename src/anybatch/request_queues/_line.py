"""Those who stand in line for room in a queue: room is given in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import anyio
import attrs


@attrs.define(eq=False)
class Place:
    """A submitter's place in line."""

    count: int
    bound: int
    event: anyio.Event = attrs.field(factory=anyio.Event)


@attrs.define(eq=False)
class ThreadPlace:
    """The place of a thread that has no event loop.

    Whoever gives it room calls `put`, so that the thread itself touches nothing.
    """

    count: int
    bound: int
    put: Callable[[], None]
    event: threading.Event = attrs.field(factory=threading.Event)


class Line:
    """The line before a bounded queue.

    One place at a time is given room, and the next one when that task has used or left it: so
    requests go in in the order of the line, whichever task an event loop runs first.

    Args:
        held: says how many requests the queue holds.
        on_blocked: called when whoever is first in line has to wait for room.
        lock: what the threads among those who wait are ordered by.
    """

    def __init__(
        self,
        held: Callable[[], int],
        on_blocked: Callable[[], None],
        lock: threading.RLock,
    ) -> None:
        self.places: deque[Place | ThreadPlace] = deque()
        self.reserved = 0  # room in use by those who are putting something in just now
        self._held = held
        self._on_blocked = on_blocked
        self._lock = lock

    @property
    def blocked(self) -> bool:
        """Whether somebody waits until room is made, and not just for the event loop."""
        return bool(self.places) and not self._fits(self.places[0])

    def has_room(self, count: int, bound: int) -> bool:
        """Whether so many fit now without overtaking anybody."""
        return not self.places and self._held() + self.reserved + count <= bound

    async def stand(self, count: int, bound: int) -> Place:
        """Wait until it is this place's turn and there is room; then use it and `leave`."""
        place = Place(count, bound)
        self.join(place)
        try:
            await place.event.wait()
        except BaseException:
            self.leave(place)
            raise
        return place

    def join(self, place: Place | ThreadPlace) -> None:
        """Go to the end of the line."""
        with self._lock:
            self.places.append(place)
            if self.places[0] is place:
                self.grant()

    def leave(self, place: Place | ThreadPlace) -> None:
        """Give the place up, its room used or not; a thread's may be gone already."""
        with self._lock:
            if place in self.places:
                self.places.remove(place)
            self.grant()

    def grant(self) -> None:
        """Give room to whoever is first in line, if there is enough by now."""
        if not self.places:
            return
        with self._lock:
            while self.places and self._fits(self.places[0]):
                first = self.places[0]
                if isinstance(first, Place):
                    first.event.set()
                    return
                self.places.popleft()
                first.put()
                first.event.set()
            if self.places:
                self._on_blocked()

    def _fits(self, place: Place | ThreadPlace) -> bool:
        return self._held() + self.reserved + place.count <= place.bound
