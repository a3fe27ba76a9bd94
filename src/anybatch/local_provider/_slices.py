"""Long synchronous work in slices, so that the event loop gets its turn every few milliseconds."""

from __future__ import annotations

from time import perf_counter

from anyio.lowlevel import checkpoint

SLICE = 0.003
"""Seconds of work between two checkpoints."""


class Breather:
    """Awaited after each small step of long work: a checkpoint when a slice of time is over.

    Real time, not the event loop's clock: it is about the processor, and a virtual clock stands
    still while a task runs.
    """

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE

    def due(self) -> bool:
        """Whether the slice is over."""
        return perf_counter() >= self._until

    async def breathe(self) -> None:
        """Let others run, and begin the next slice."""
        await checkpoint()
        self._until = perf_counter() + SLICE
