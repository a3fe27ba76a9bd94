"""Virtual time for tests, on both event loops: AnyIO backends whose clocks jump.

Time stands still while tasks run and jumps to the next timer when all of them wait, so 24 hours
pass in milliseconds and a time-out expires at the very second. While a worker thread runs, time
follows real time. A run that can never end raises `Deadlock`, which names the tasks that wait.

Each function makes a pair that AnyIO's pytest plugin takes from an ``anyio_backend`` fixture, and
`anyio.run` as ``backend`` and ``backend_options``. Make a new one for each run::

    @pytest.fixture(params=[virtual_asyncio, virtual_trio])
    def anyio_backend(request):
        return request.param()

A test that talks to a real server belongs in real time: sockets do not hold virtual time back.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from ._asyncio_clock import VirtualClockLoop, eager_virtual_clock_loop
from ._deadlock import Deadlock

__all__ = [
    "Backend",
    "Deadlock",
    "VirtualClockLoop",
    "all_backends",
    "backend_deadlock",
    "virtual_asyncio",
    "virtual_asyncio_eager",
    "virtual_trio",
]

Backend = tuple[str, dict[str, Any]]
"""The name of an AnyIO backend, and the options of its `run` function."""


def virtual_asyncio() -> Backend:
    """Make a backend: asyncio in virtual time."""
    return "asyncio", {"loop_factory": VirtualClockLoop}


def virtual_asyncio_eager() -> Backend:
    """Make a backend: asyncio in virtual time with eager tasks (Python 3.12 and later)."""
    return "asyncio", {"loop_factory": eager_virtual_clock_loop}


def virtual_trio() -> Backend:
    """Make a backend: Trio in virtual time.

    The clock is Trio's own `trio.testing.MockClock`, driven by an instrument.

    Raises:
        ImportError: Trio is not installed.
    """
    from trio.testing import MockClock

    from ._trio_clock import ClockKeeper

    clock = MockClock()
    return "trio", {"clock": clock, "instruments": [ClockKeeper(clock)]}


def all_backends() -> list[Backend]:
    """Make one of each backend that this Python and the installed packages have."""
    factories = [virtual_asyncio]
    factories += [virtual_asyncio_eager] * (sys.version_info >= (3, 12))
    factories += [virtual_trio] * (find_spec("trio") is not None)
    return [make() for make in factories]


def backend_deadlock(backend: object) -> Deadlock | None:
    """Return why the latest run on a `virtual_trio` backend was given up; else None.

    On Trio the tasks of such a run see a cancellation; `trio.run` raises, but AnyIO's pytest
    plugin, which runs a test inside a task, does not.
    """
    match backend:
        case (str(), {"instruments": [object(deadlock=Deadlock() as error)]}):
            return error
        case _:
            return None
