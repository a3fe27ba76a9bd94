"""Trio's own `trio.testing.MockClock`, kept from jumping while a worker thread runs."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from types import FrameType

import attrs
import trio
from trio.lowlevel import Task
from trio.testing import MockClock, active_thread_count

from ._deadlock import (
    GRACE,
    NOTHING_LEFT,
    PATIENCE,
    TOO_BUSY,
    TOO_LONG,
    Deadlock,
    deadlock,
)


class ClockKeeper(trio.abc.Instrument):
    """Drives a `MockClock`: it jumps while no thread runs, and follows real time while one does.

    Trio's autojump does not look at threads (python-trio/trio#456): while one works, the clock
    leaps over every time-out. It also spins for ever where nothing can happen any more; here the
    run crashes, with a `Deadlock` that names who waits.
    """

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self._idle_since: float | None = None
        self._real_since: float | None = None
        self._cpu_limit = math.inf
        self.deadlock: Deadlock | None = None
        """Why the latest run was given up, if it was."""

    def before_run(self) -> None:
        self.deadlock = None
        self._idle_since = None
        self._cpu_limit = time.thread_time() + PATIENCE
        self._jump()

    def before_task_step(self, task: Task) -> None:  # noqa: ARG002
        self._idle_since = None

    def after_task_step(self, task: Task) -> None:  # noqa: ARG002
        """Thread calls begin and end within a step, so this is where the pace changes."""
        threads = active_thread_count()
        if threads and self._real_since is None:
            self._follow_real_time()
        elif not threads and self._real_since is not None:
            self._jump()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        if time.thread_time() > self._cpu_limit:
            self._cpu_limit += PATIENCE
            self._give_up(TOO_BUSY)
        elif self._real_since is not None:
            if time.perf_counter() - self._real_since > PATIENCE:
                self._real_since = time.perf_counter()
                self._give_up(TOO_LONG)
        elif self._idle_since is None:
            self._idle_since = time.perf_counter()
        else:
            self._watch_idleness(time.perf_counter() - self._idle_since)

    def _jump(self) -> None:
        self._real_since = None
        self._clock.rate = 0.0
        self._clock.autojump_threshold = 0.0

    def _follow_real_time(self) -> None:
        self._real_since = time.perf_counter()
        self._clock.rate = 1.0
        # Reached by a thread that never ends: it wakes the loop, which then gives up.
        self._clock.autojump_threshold = PATIENCE

    def _watch_idleness(self, seconds: float) -> None:
        """Called in each turn of the loop without a task step since the one before."""
        statistics = trio.lowlevel.current_statistics()
        if statistics.tasks_runnable or statistics.seconds_to_next_deadline < math.inf:
            return
        has_sockets = _io_waits(statistics) > 1  # the one is Trio's own, for run_sync_soon
        if self.deadlock or seconds > (PATIENCE if has_sockets else GRACE):
            self._give_up(TOO_LONG if has_sockets else NOTHING_LEFT)
        else:
            time.sleep(0.001)  # autojump never blocks: without a pause it would spin

    def _give_up(self, reason: str) -> None:
        self._idle_since = None
        if self.deadlock is None:
            self.deadlock = deadlock(reason, _waiting_tasks())
            trio.lowlevel.spawn_system_task(self._crash, self.deadlock, name="deadlock")
        else:
            _drop_shields()

    async def _crash(self, error: Deadlock) -> None:
        """A system task that raises is Trio's way to cancel the main task and end the run."""
        raise error


def _io_waits(statistics: trio.lowlevel.RunStatistics) -> int:
    counts = attrs.asdict(statistics.io_statistics, recurse=False)
    return sum(counts[name] for name in counts if name.startswith("tasks_waiting"))


def _waiting_tasks() -> Iterator[tuple[str, list[FrameType]]]:
    root = trio.lowlevel.current_root_task()
    pending = [root] if root else []
    while pending:
        task = pending.pop()
        pending.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        if not task.name.startswith("<"):
            yield task.name, [frame for frame, _ in task.iter_await_frames()]


def _drop_shields() -> None:
    """Let the cancellation in: shielded and without a deadline, a task could never be ended."""
    for scope in gc.get_objects():
        if type(scope) is trio.CancelScope and scope.shield:
            scope.shield = False
