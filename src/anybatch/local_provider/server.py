"""`LocalProvider`: the whole provider in this process, on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin, sleep_forever
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from ._backend import Backend
from ._hypercorn import listening
from .app import DAY, Settings, build_app, open_backend
from .engines import Engine
from .faults import FaultPlan
from .statistics import Statistics
from .transport import InProcessTransport
from .validation import Limits

EnteredT = TypeVar("EnteredT")


class LocalProvider(AsyncContextManagerMixin):
    """An OpenAI-compatible server of Files and Batches, open while its `async with` runs.

    It is entered once, on asyncio or Trio, and no task of it outlives the block.

    Args:
        engine: `"echo"`, `"llama"`, an engine of your own, or None for the best one there is.
        host: the name or address it listens on.
        port: 0: one that is free; None: it does not listen, and its `app` is called directly.
        directory: where files, batches and a journal are kept, to go on after a kill; None: in a
            temporary directory.
        faults: what shall go wrong.
        api_key: what calls must bring as their bearer token; None: they need none.
        delay: seconds that a batch stays in each of `validating`, `in_progress`, `finalizing`,
            beside the time that its rows take.
        window: seconds after which a batch expires.
        limits: what the provider takes; default: what OpenAI takes.
        shuffle: whether rows leave in another order than they came in, the same each time.

    Entering raises `EngineUnavailable`, an `OSError` for an address that cannot be used, and a
    `RuntimeError` for a directory that another provider uses.
    """

    def __init__(
        self,
        engine: Engine | str | None = "echo",
        *,
        host: str = "127.0.0.1",
        port: int | None = 0,
        directory: str | Path | None = None,
        faults: FaultPlan | None = None,
        api_key: str | None = None,
        delay: float = 0.0,
        window: float = DAY,
        limits: Limits | None = None,
        shuffle: bool = True,
    ) -> None:
        self._settings = Settings(
            engine=engine,
            directory=directory,
            faults=faults or FaultPlan(),
            api_key=api_key,
            delay=delay,
            window=window,
            limits=limits or Limits(),
            shuffle=shuffle,
        )
        self._host = host
        self._port = port
        self._used = False
        self._backend: Backend | None = None
        self._app: ASGIApp | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[LocalProvider]:
        if self._used:
            raise RuntimeError("this LocalProvider was entered before; make another one")
        self._used = True  # before the first await: two tasks may come at a time
        async with open_backend(self._settings) as self._backend:
            self._app = build_app(self._backend, self._settings.api_key)
            if self._port is None:
                yield self
                return
            async with listening(self._app, self._host, self._port) as self._port:
                yield self

    @property
    def url(self) -> str:
        """The server's address, `http://host:port`; one that leads nowhere if it has no port."""
        if self._port is None:
            return "http://local-provider.invalid"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def base_url(self) -> str:
        """What OpenAI's clients take as their `base_url`: the address with `/v1`."""
        return f"{self.url}/v1"

    @property
    def app(self) -> ASGIApp:
        """The ASGI application, for a transport without sockets.

        `ConnectionDropped` comes out of it where the fault plan drops a connection.
        """
        return _entered(self._app)

    @property
    def transport(self) -> InProcessTransport:
        """A transport for httpx2's clients that needs no sockets, and so no real time."""
        return InProcessTransport(self.app)

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return _entered(self._backend).context.engine

    @property
    def faults(self) -> FaultPlan:
        """The plan in force. Setting another one begins its counts at nothing."""
        return _entered(self._backend).context.faults.plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        _entered(self._backend).context.faults.replace(plan)

    def statistics(self) -> Statistics:
        """Return what was asked and bought until now; after leaving: until then."""
        return _entered(self._backend).context.store.ledger.statistics()

    def batches(self) -> list[dict[str, Any]]:
        """Return all batches as the API shows them, oldest first, hidden ones too."""
        return [r.to_api() for r in _entered(self._backend).context.store.batches.values()]


def _entered(value: EnteredT | None) -> EnteredT:
    if value is None:
        raise RuntimeError("enter the LocalProvider first: async with LocalProvider() as provider")
    return value


async def serve(
    engine: Engine | str | None = "echo",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    directory: str | Path | None = None,
    faults: FaultPlan | None = None,
    api_key: str | None = None,
    delay: float = 0.0,
    window: float = DAY,
    task_status: TaskStatus[LocalProvider] = TASK_STATUS_IGNORED,
) -> None:
    """Serve a local provider until cancelled; the arguments are those of `LocalProvider`.

    Args:
        task_status: `await group.start(serve, …)` returns the provider when it listens.
    """
    provider = LocalProvider(
        engine,
        host=host,
        port=port,
        directory=directory,
        faults=faults,
        api_key=api_key,
        delay=delay,
        window=window,
    )
    async with provider:
        task_status.started(provider)
        await sleep_forever()
