"""Every async test runs on asyncio, on asyncio with eager tasks, and on Trio, in virtual time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from anybatch.testing.clocks import (
    Backend,
    backend_deadlock,
    virtual_asyncio,
    virtual_asyncio_eager,
    virtual_trio,
)


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


VIRTUAL: dict[str, Callable[[], Backend]] = {
    "asyncio": virtual_asyncio,
    "asyncio-eager": virtual_asyncio_eager,
    "trio": virtual_trio,
}
REAL: dict[str, Backend] = {
    "asyncio": ("asyncio", {}),
    "asyncio-eager": ("asyncio", {"loop_factory": eager_loop}),
    "trio": ("trio", {}),
}
IDS = [name for name in VIRTUAL if name != "asyncio-eager" or sys.version_info >= (3, 12)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "real_time: run on the event loops' own clocks; for sockets and processes"
    )


@pytest.fixture(params=IDS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """A new clock for each test: virtual, or real where it is marked `real_time`."""
    if request.node.get_closest_marker("real_time"):
        return REAL[request.param]
    return VIRTUAL[request.param]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test whose deadlock Trio could only tell it as a cancellation."""
    try:
        return (yield)
    finally:
        deadlock = backend_deadlock(pyfuncitem.funcargs.get("anyio_backend"))
        if deadlock is not None:
            raise deadlock


@pytest.fixture(autouse=True)
def anybatch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes into the home of whoever runs it."""
    home = tmp_path / "anybatch-home"
    monkeypatch.setenv("ANYBATCH_HOME", str(home))
    return home
