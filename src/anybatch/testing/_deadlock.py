"""How a run in virtual time that cannot end is told apart from one that merely waits."""

from __future__ import annotations

from collections.abc import Iterable
from types import FrameType

GRACE = 1.0
"""Real seconds for which an idle event loop waits for a thread that nobody counts."""

PATIENCE = 60.0
"""Real seconds of computing, or of waiting for one thread or socket, that a run is given."""

NOTHING_LEFT = "nothing can happen any more: no timer, no thread and no I/O is left"
TOO_LONG = f"nothing has come for {PATIENCE:g} s of real time, from a thread or a socket"
TOO_BUSY = f"it has computed for {PATIENCE:g} s: it turns in circles, or should be a benchmark"

_PLUMBING = {"anyio", "asyncio", "trio", "outcome", "contextlib"}


class Deadlock(RuntimeError):
    """A run in virtual time that will not end by itself; the message names each task that waits.

    Raised where nothing is left that could wake a task, where a thread or a socket has kept the
    run waiting for `PATIENCE` seconds, and where it has been busy for as long.
    """


def deadlock(reason: str, tasks: Iterable[tuple[str, list[FrameType]]]) -> Deadlock:
    """Make the error of a run whose ``tasks`` (name and stack, outermost first) cannot end."""
    lines = sorted(f"  {name}, {_place(frames)}" for name, frames in tasks)
    return Deadlock("\n".join([f"{reason}. The tasks that wait:", *lines]))


def _place(frames: list[FrameType]) -> str:
    """Where a task waits: its innermost frame that does not belong to the event loop."""
    ours = [frame for frame in frames if not _is_plumbing(frame)]
    for frame in (ours or frames)[-1:]:
        code = frame.f_code
        return f"in {code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
    return "in compiled code"


def _is_plumbing(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _PLUMBING
