"""The provider as an ASGI application, for a server or a test client of your own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import field, frozen
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ._backend import Backend
from ._batches_api import BatchesApi
from ._context import Context
from ._drawing import Faults
from ._files_api import FilesApi
from ._front import PRIVATE, Front
from ._live_api import LiveApi
from ._pages import json_response
from .engines import ENDPOINTS, Engine, choose_engine
from .errors import ApiError
from .faults import FaultPlan
from .store import Store
from .validation import Limits

DAY = 24 * 60 * 60.0


@frozen(kw_only=True)
class Settings:
    """How a local provider behaves, whoever serves it.

    Args:
        engine: `"echo"`, `"llama"`, an engine of your own, or None for the best one there is.
        directory: where files, batches and a journal are kept, to go on after a kill; None: in a
            temporary directory.
        faults: what shall go wrong.
        api_key: what calls must bring as their bearer token; None: they need none.
        delay: seconds that a batch stays in each of `validating`, `in_progress`, `finalizing`,
            beside the time that its rows take.
        window: seconds after which a batch expires, whatever a `completion_window` of "24h" says.
        limits: what the provider takes.
        shuffle: whether rows leave in another order than they came in, the same each time.
    """

    engine: Engine | str | None = "echo"
    directory: str | Path | None = None
    faults: FaultPlan = field(factory=FaultPlan)
    api_key: str | None = None
    delay: float = 0.0
    window: float = DAY
    limits: Limits = field(factory=Limits)
    shuffle: bool = True


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncGenerator[Backend]:
    """Open what stands behind the application.

    Raises:
        EngineUnavailable: if the engine was asked for by name and cannot run here.
        RuntimeError: if another provider uses the directory.
    """
    with TemporaryDirectory(prefix="anybatch-provider-") as temporary:
        directory = settings.directory
        context = Context(
            store=Store(Path(directory or temporary), durable=directory is not None),
            engine=choose_engine(settings.engine),
            faults=Faults(settings.faults),
            limits=settings.limits,
            delay=settings.delay,
            window=settings.window,
            shuffle=settings.shuffle,
        )
        async with Backend(context) as backend:
            yield backend


def build_app(backend: Backend, api_key: str | None) -> ASGIApp:
    """Return the application in front of an open backend."""
    routes = _routes(backend)
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: _refuse,
            HTTPException: _no_such_route,
            ClientDisconnect: _answer_nobody,
        },
    )
    return Front(app, routes, backend.context, api_key)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Return the provider as an ASGI application that opens and closes with its lifespan.

    Where a fault plan drops a connection, `ConnectionDropped` comes out of the application: what
    a client then sees is its server's matter. `LocalProvider` really closes the connection.

    Args:
        settings: how it behaves; default: `Settings()`.
    """
    return _LifespanApp(settings or Settings())


class _LifespanApp:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is None:
            raise RuntimeError("the lifespan of this application has not begun; serve it with one")
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with open_backend(self._settings) as backend:
            self._app = build_app(backend, self._settings.api_key)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _routes(backend: Backend) -> list[Route]:
    context = backend.context
    files = FilesApi(context.store, context.limits)
    batches, live = BatchesApi(backend), LiveApi(context)
    table = [
        ("files.create", "POST", "/v1/files", files.create),
        ("files.list", "GET", "/v1/files", files.browse),
        ("files.retrieve", "GET", "/v1/files/{file_id}", files.retrieve),
        ("files.delete", "DELETE", "/v1/files/{file_id}", files.delete),
        ("files.content", "GET", "/v1/files/{file_id}/content", files.content),
        ("batches.create", "POST", "/v1/batches", batches.create),
        ("batches.list", "GET", "/v1/batches", batches.browse),
        ("batches.retrieve", "GET", "/v1/batches/{batch_id}", batches.retrieve),
        ("batches.cancel", "POST", "/v1/batches/{batch_id}/cancel", batches.cancel),
        ("models.list", "GET", "/v1/models", live.models),
        ("statistics", "GET", f"{PRIVATE}statistics", live.statistics),
        *(("live.create", "POST", endpoint, live.create) for endpoint in ENDPOINTS),
    ]
    return [Route(path, call, methods=[method], name=name) for name, method, path, call in table]


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body(), error.status)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return json_response(ApiError(400, "The body of your request ended early.").body(), 400)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"Invalid URL ({request.method} {request.url.path})"
    return json_response(ApiError(error.status_code, message).body(), error.status_code)
