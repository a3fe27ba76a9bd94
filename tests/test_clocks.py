"""Virtual time: it jumps, it does not leap over threads, and a run that cannot end says so."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
import trio
from anyio import to_thread

from anybatch._threads import run_sync
from anybatch.testing import _asyncio_clock, _deadlock, _trio_clock, clocks
from anybatch.testing.clocks import (
    Backend,
    Deadlock,
    VirtualClockLoop,
    all_backends,
    backend_deadlock,
    virtual_asyncio,
    virtual_asyncio_eager,
    virtual_trio,
)

DAY = 86_400
BACKEND_IDS = (
    ["asyncio", "asyncio-eager", "trio"]
    if sys.version_info >= (3, 12)
    else [
        "asyncio",
        "trio",
    ]
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=range(len(BACKEND_IDS)), ids=BACKEND_IDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """For tests that start the run themselves, to see how it ends."""
    return all_backends()[request.param]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_asyncio_clock, _trio_clock):
        monkeypatch.setattr(module, "GRACE", 0.05)
        monkeypatch.setattr(module, "PATIENCE", 0.2)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def run(main: Callable[[], Awaitable[object]], backend: Backend) -> None:
    anyio.run(main, backend=backend[0], backend_options=backend[1])


def deadlock_of(main: Callable[[], Awaitable[object]], backend: Backend) -> str:
    """Run into a deadlock and return its message; Trio wraps the error, asyncio raises it."""
    with pytest.raises((Deadlock, trio.TrioInternalError)) as caught:
        run(main, backend)
    error = backend_deadlock(backend) or caught.value
    assert isinstance(error, Deadlock)
    return str(error)


async def wait_for_ever() -> None:
    await anyio.Event().wait()


# Time jumps.


async def test_a_year_of_days_passes_at_once() -> None:
    real = time.perf_counter()
    virtual = anyio.current_time()
    for _ in range(365):
        await anyio.sleep(DAY)
    assert anyio.current_time() - virtual == 365 * DAY
    assert time.perf_counter() - real < 10


async def test_time_stands_still_while_tasks_run() -> None:
    start = anyio.current_time()
    time.sleep(0.01)  # noqa: ASYNC251 - as a busy task does
    await anyio.lowlevel.checkpoint()
    assert anyio.current_time() == start


@pytest.mark.parametrize("run", [1, 2])
async def test_each_test_has_a_clock_of_its_own_that_starts_at_zero(run: int) -> None:
    assert anyio.current_time() == 0
    await anyio.sleep(run)


async def test_a_time_out_expires_at_the_very_second() -> None:
    with anyio.move_on_after(7_200) as scope:
        await wait_for_ever()
    assert scope.cancelled_caught
    assert anyio.current_time() == 7_200


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    woken = list[float]()

    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)
        assert anyio.current_time() == seconds
        woken.append(seconds)

    async with anyio.create_task_group() as tg:
        for seconds in (3 * DAY, 0.5, 60, DAY):
            tg.start_soon(sleep, seconds)
    assert woken == [0.5, 60, DAY, 3 * DAY]


async def test_a_cancelled_timer_is_not_jumped_to() -> None:
    with anyio.move_on_after(10):
        await anyio.sleep(1)
    await anyio.sleep(100)
    assert anyio.current_time() == 101


# Threads take real time.


@pytest.mark.parametrize("call", [run_sync, to_thread.run_sync], ids=["ours", "anyio"])
async def test_no_time_out_is_leapt_over_while_a_thread_works(
    call: Callable[..., Awaitable[None]],
) -> None:
    with anyio.fail_after(30):
        await call(time.sleep, 0.05)
    assert 0.04 < anyio.current_time() < 20


async def test_a_sleep_takes_real_time_while_a_thread_works() -> None:
    opened = threading.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_sync, opened.wait)
        await anyio.lowlevel.checkpoint()  # the thread is on its way
        real = time.perf_counter()
        await anyio.sleep(0.05)
        assert time.perf_counter() - real > 0.04
        opened.set()


async def test_time_jumps_again_after_the_last_thread() -> None:
    await run_sync(time.sleep, 0.01)
    start = anyio.current_time()
    real = time.perf_counter()
    await anyio.sleep(DAY)
    assert anyio.current_time() == pytest.approx(start + DAY, abs=1e-3)
    assert time.perf_counter() - real < 10


def test_a_thread_of_asyncios_own_executor_is_waited_for_too() -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await asyncio.to_thread(time.sleep, 0.05)

    run(main, virtual_asyncio())


def test_leaving_waits_for_the_executors_threads_at_their_pace() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(None, time.sleep, 0.05)
        await asyncio.sleep(0)
        call.cancel()

    run(main, virtual_asyncio())  # a jump would warn that the executor was not done in 300 s


def test_a_thread_whose_task_was_cancelled_natively_still_holds_time_back() -> None:
    opened = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(run_sync(opened.wait))
        await asyncio.sleep(0.01)
        task.cancel()
        real = time.perf_counter()
        await asyncio.sleep(0.05)
        assert time.perf_counter() - real > 0.04
        opened.set()

    run(main, virtual_asyncio())


def test_the_loop_runs_under_asyncios_own_runner() -> None:
    async def main() -> float:
        await run_sync(time.sleep, 0.01)
        await asyncio.sleep(DAY)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        assert runner.run(main()) > DAY


# What cannot end is an error.


@pytest.mark.usefixtures("impatient")
def test_where_nothing_can_happen_any_more_the_run_ends_and_names_who_waits(
    backend: Backend,
) -> None:
    async def main() -> None:
        await anyio.sleep(5)
        async with anyio.create_task_group() as tg:
            tg.start_soon(wait_for_ever, name="the watcher")

    message = deadlock_of(main, backend)
    assert _deadlock.NOTHING_LEFT in message
    assert "  the watcher, in wait_for_ever (" in message
    assert f"{__file__}:" in message


@pytest.mark.usefixtures("impatient")
def test_a_shield_does_not_keep_a_deadlocked_run_alive(backend: Backend) -> None:
    async def main() -> None:
        with anyio.CancelScope(shield=True):
            await wait_for_ever()

    assert _deadlock.NOTHING_LEFT in deadlock_of(main, backend)


@pytest.mark.usefixtures("impatient")
def test_nor_does_a_task_that_swallows_its_cancellation(backend: Backend) -> None:
    async def main() -> None:
        with suppress(anyio.get_cancelled_exc_class()):
            await wait_for_ever()
        with anyio.CancelScope(shield=True):
            await wait_for_ever()

    assert _deadlock.NOTHING_LEFT in deadlock_of(main, backend)


@pytest.mark.usefixtures("impatient")
def test_a_task_that_never_gives_in_is_given_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asyncio_clock, "MOST_CANCELLATIONS", 3)

    async def main() -> None:
        for _ in range(5):
            with suppress(asyncio.CancelledError):
                await wait_for_ever()

    with closing(VirtualClockLoop()) as loop:
        task = loop.create_task(main())
        for cancellations in (0, 2):
            with pytest.raises(Deadlock, match="in wait_for_ever"):
                loop.run_until_complete(task)
            assert task.cancelling() == cancellations
        while not task.done():
            task.cancel()
            with suppress(Deadlock):
                loop.run_until_complete(task)


@pytest.mark.usefixtures("impatient")
def test_a_deadlock_seen_as_a_cancellation_can_still_be_told() -> None:
    backend = virtual_trio()
    run(lambda: anyio.sleep(1), backend)
    assert backend_deadlock(backend) is None
    deadlock_of(wait_for_ever, backend)
    assert backend_deadlock(backend) is not None
    run(lambda: anyio.sleep(1), backend)
    assert backend_deadlock(backend) is None


def test_a_test_that_waits_for_ever_fails_even_where_it_expects_to_be_cancelled(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(
        "import anyio, pytest\n"
        "pytestmark = pytest.mark.anyio\n"
        "async def test_it():\n"
        "    with pytest.raises(anyio.get_cancelled_exc_class()):\n"
        "        await anyio.Event().wait()\n"
    )
    root = Path(__file__).parents[1]
    options = ["-c", root / "pyproject.toml", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"== {len(BACKEND_IDS)} failed in " in done.stdout
    assert "in test_it (" in done.stdout


@pytest.mark.parametrize("other", ["trio", None, ("asyncio", {}), virtual_asyncio()])
def test_other_backends_have_no_deadlock_to_tell(other: object) -> None:
    assert backend_deadlock(other) is None


@pytest.mark.usefixtures("impatient")
def test_a_loop_without_a_task_cannot_end_either() -> None:
    with closing(VirtualClockLoop()) as loop, pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())


def test_a_task_of_compiled_code_has_no_place_to_name() -> None:
    assert str(_deadlock.deadlock("stuck", [("it", [])])).endswith("  it, in compiled code")


def test_a_run_that_turns_in_circles_is_ended(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_asyncio_clock, _trio_clock):
        monkeypatch.setattr(module, "PATIENCE", 0.05)

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await anyio.sleep(60)

    assert _deadlock.TOO_BUSY in deadlock_of(main, backend)


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_takes_too_long_is_an_error(backend: Backend) -> None:
    ended = threading.Event()

    def work() -> None:
        # Trio waits for it even then; asyncio leaves it behind.
        while not ended.wait(0.01) and not backend_deadlock(backend):
            pass

    try:
        assert _deadlock.TOO_LONG in deadlock_of(lambda: run_sync(work), backend)
    finally:
        ended.set()


def test_a_thread_that_nobody_counts_may_still_wake_the_loop(backend: Backend) -> None:
    async def main() -> None:
        event = anyio.Event()
        token = anyio.lowlevel.current_token()

        def wake() -> None:
            time.sleep(0.01)
            anyio.from_thread.run_sync(event.set, token=token)

        thread = threading.Thread(target=wake)
        thread.start()
        await event.wait()
        thread.join()

    run(main, backend)


def test_a_socket_is_waited_for(
    backend: Backend,
    sockets: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (_asyncio_clock, _trio_clock):
        monkeypatch.setattr(module, "GRACE", 0.01)
    ours, theirs = sockets
    timer = threading.Timer(0.1, theirs.send, [b"at last"])

    async def main() -> None:
        timer.start()
        await anyio.wait_readable(ours)
        assert ours.recv(10) == b"at last"

    run(main, backend)
    timer.join()


@pytest.mark.usefixtures("impatient")
def test_but_not_for_ever(backend: Backend, sockets: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        await anyio.wait_readable(sockets[0])

    assert _deadlock.TOO_LONG in deadlock_of(main, backend)


# What there is.


def test_there_is_a_backend_for_each_event_loop_and_a_new_clock_for_each_run() -> None:
    assert [name for name, _ in all_backends()] == [i.partition("-")[0] for i in BACKEND_IDS]
    assert virtual_trio()[1]["clock"] is not virtual_trio()[1]["clock"]


def test_without_trio_there_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "find_spec", lambda name: None)
    assert {name for name, _ in all_backends()} == {"asyncio"}


if sys.version_info >= (3, 12):

    def test_eager_tasks_start_within_the_call_that_creates_them() -> None:
        steps = list[str]()

        async def child() -> None:
            steps.append("child")

        async def main() -> None:
            task = asyncio.create_task(child())
            steps.append("parent")
            await task
            await asyncio.sleep(DAY)

        run(main, virtual_asyncio_eager())
        assert steps == ["child", "parent"]

else:

    def test_before_python_3_12_there_are_no_eager_tasks() -> None:
        with pytest.raises(RuntimeError, match=r"3\.12"):
            run(wait_for_ever, virtual_asyncio_eager())
