"""What a request costs on its way in, and its answer on its way out: microseconds of CPU time.

``python benchmarks/submit.py [rounds]`` runs every step on every event loop there is, in rounds
that take turns, so that a noisy minute falls on all of them, and prints a table in Markdown. The
handler is a function that returns at once: what is measured is the dispatcher alone.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Self

import anyio
import anyio.lowlevel

from anybatch import BatchDispatcher, Receipt

ROUNDS = 7
REQUESTS = 20_000
TASKS = 1_000
BLOCKED = 3_000
BATCH = 500

Step = Callable[[], Awaitable[dict[str, float]]]


def backends() -> dict[str, tuple[str, dict[str, Any]]]:
    """The event loops there are here: backend and options of `anyio.run`."""
    found: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {})}
    if find_spec("uvloop"):
        found["uvloop"] = ("asyncio", {"use_uvloop": True})
    if find_spec("trio"):
        found["trio"] = ("trio", {})
    return found


async def echo(requests: list[int]) -> list[int]:  # noqa: ASYNC124 - handlers are async
    return requests


def dispatcher(**options: Any) -> BatchDispatcher[int, int]:
    # Cut by count: a machine that is busy with something else should not make the batches smaller.
    return BatchDispatcher(echo, **{"queue_threshold": BATCH, "time_threshold": 1, **options})


class Cpu:
    """CPU microseconds of the process between entering and leaving, a request."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.cost = math.nan

    def __enter__(self) -> Self:
        gc.collect()
        self._start = time.process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cost = (time.process_time() - self._start) / self.requests * 1e6


# What the event loop itself costs


async def checkpoint() -> dict[str, float]:
    with Cpu(REQUESTS) as cpu:
        for _ in range(REQUESTS):
            await anyio.lowlevel.checkpoint()
    return {"a checkpoint": cpu.cost}


async def stream_hop() -> dict[str, float]:
    send, receive = anyio.create_memory_object_stream[int](1)
    with send, receive, Cpu(REQUESTS) as cpu:
        for number in range(REQUESTS):
            await send.send(number)
            await receive.receive()
    return {"a hop through a memory object stream": cpu.cost}


# Submitting


async def submit() -> dict[str, float]:
    async with dispatcher() as d:
        with Cpu(REQUESTS) as cpu:
            for number in range(REQUESTS):
                await d.submit(number)
            await d.flush()
    return {"`await d.submit(x)`": cpu.cost}


async def submit_nowait() -> dict[str, float]:
    async with dispatcher() as d:
        with Cpu(REQUESTS) as cpu:
            for number in range(REQUESTS):
                d.submit_nowait(number)
            await d.flush()
    return {"`d.submit_nowait(x)`": cpu.cost}


async def submit_many() -> dict[str, float]:
    async with dispatcher() as d:
        with Cpu(REQUESTS) as cpu:
            await d.submit_many(range(REQUESTS))
            await d.flush()
    return {"`await d.submit_many(xs)`": cpu.cost}


# Answers


async def ask_in_two_steps() -> dict[str, float]:
    async def ask(d: BatchDispatcher[int, int], number: int) -> int:
        return await (await d.submit(number))

    return {"its own answer: `await (await d.submit(x))`": await every_task(ask)}


async def ask_nowait() -> dict[str, float]:
    async def ask(d: BatchDispatcher[int, int], number: int) -> int:
        return await d.submit_nowait(number)

    return {"its own answer: `await d.submit_nowait(x)`": await every_task(ask)}


async def every_task(
    ask: Callable[[BatchDispatcher[int, int], int], Awaitable[int]],
) -> float:
    """A thousand tasks, each of which asks and has its answer before it asks again."""

    async def task(d: BatchDispatcher[int, int]) -> None:
        for number in range(REQUESTS // TASKS):
            assert await ask(d, number) == number

    async with dispatcher() as d:
        with Cpu(REQUESTS) as cpu:
            async with anyio.create_task_group() as tasks:
                for _ in range(TASKS):
                    tasks.start_soon(task, d)
    return cpu.cost


async def blocked() -> dict[str, float]:
    """Thrice as many tasks, in line for the room of one batch."""
    each = REQUESTS // BLOCKED + 1

    async def task(d: BatchDispatcher[int, int]) -> None:
        for number in range(each):
            await d.submit(number)

    async with dispatcher(max_pending=BATCH) as d:
        with Cpu(BLOCKED * each) as cpu:
            async with anyio.create_task_group() as tasks:
                for _ in range(BLOCKED):
                    tasks.start_soon(task, d)
            await d.flush()
    return {"`await d.submit(x)`, 3,000 tasks in line": cpu.cost}


async def cut_latency() -> dict[str, float]:
    """Wall-clock time from the submit that fills a batch to the function that gets it."""
    started, latencies = 0.0, list[float]()

    async def note(requests: list[int]) -> list[int]:  # noqa: ASYNC124 - likewise
        latencies.append(time.perf_counter() - started)
        return requests

    async with BatchDispatcher[int, int](note, queue_threshold=10, time_threshold=60) as d:
        for _ in range(500):
            await anyio.wait_all_tasks_blocked()
            receipt: Receipt[int] = [d.submit_nowait(number) for number in range(9)][-1]
            started = time.perf_counter()
            receipt = d.submit_nowait(9)
            await receipt
    latencies.sort()
    return {
        "from the submit that fills a batch to its function, median": latencies[250] * 1e6,
        "the same, 99th percentile": latencies[494] * 1e6,
    }


STEPS: list[Step] = [
    checkpoint,
    stream_hop,
    submit,
    submit_nowait,
    submit_many,
    ask_in_two_steps,
    ask_nowait,
    blocked,
    cut_latency,
]


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """The lowest of the rounds (what disturbs only adds): step → event loop → microseconds."""
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for step in STEPS:
            for loop, (backend, options) in backends().items():
                result = anyio.run(step, backend=backend, backend_options=options)
                for name, cost in result.items():
                    figures.setdefault(name, {}).setdefault(loop, []).append(cost)
    return {
        name: {loop: min(costs) for loop, costs in row.items()} for name, row in figures.items()
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures in Markdown: microseconds, and in brackets the ratio to a hop."""
    loops = list(backends())
    hop = figures["a hop through a memory object stream"]
    lines = [f"| microseconds (hops) | {' | '.join(loops)} |", "|---|" + "---|" * len(loops)]
    for name, row in figures.items():
        cells = [f"{row[loop]:.2f} ({row[loop] / hop[loop]:.2f})" for loop in loops]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versions() -> str:
    """What it ran on."""
    names = [name for name in ("anyio", "trio", "uvloop") if find_spec(name)]
    installed = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{platform.python_implementation()} {platform.python_version()}, {installed}, {os.cpu_count()} cores"


if __name__ == "__main__":
    print(table(measure(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)))
    print(f"\n{versions()}")
