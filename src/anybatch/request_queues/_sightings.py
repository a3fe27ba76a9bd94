"""Since when requests have been seen in a queue that does not say when they came. Pure."""

from __future__ import annotations

from collections import deque


class Sightings:
    """Log numbers up to which a queue had been seen full, each with the time of the look."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()

    def see(self, tail: int, head: int, now: float) -> None:
        """A look has found requests up to `tail`; `head` of them have been cut.

        Where somebody else took some, the rest keeps the age of the earliest sighting: too old
        by a little is cut a little early, and too young might never be cut.
        """
        since = now
        while self._marks and self._marks[-1][0] > tail:
            since = self._marks.pop()[1]
        if tail > max(head, self._marks[-1][0] if self._marks else head):
            self._marks.append((tail, since))

    def oldest(self, head: int, now: float) -> float:
        """When the request at the head was first seen."""
        while self._marks and self._marks[0][0] <= head:
            self._marks.popleft()
        return self._marks[0][1] if self._marks else now
