"""The one door to langbatch: its classes as providers, their halves run apart and guarded.

langbatch and openai are untyped or foreign here: what comes from them is `Any`, and stays in this
module. `start()` and `retry()` are never called, because the SDK behind them retries a create.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from ._encoding import plain
from ._exceptions import RequestRejected
from ._langbatch_calls import OwnCalls, file_rows, openai_module
from ._langbatch_classes import (
    built_lines,
    do_nothing,
    is_class,
    overrides,
    prepare_results,
    subclass,
    validate_quietly,
    writer,
)
from ._langbatch_handler import LangbatchHandler
from ._langbatch_import import load
from ._models import RemoteBatch
from ._threads import run_sync
from .providers.langbatch import is_langbatch_batch, is_langbatch_handler
from .providers.openai import OpenAI

__all__ = [
    "LangbatchHandler",
    "LangbatchProvider",
    "is_langbatch_batch",
    "is_langbatch_handler",
    "load",
    "provider_for",
]

logger = logging.getLogger(__name__)

_HALVES: Final = (
    "_upload_batch_file",
    "_create_batch",
    "get_status",
    "_download_results_file",
    "cancel",
)


def provider_for(batch_type: type, batch_kwargs: Mapping[str, Any]) -> LangbatchProvider:
    """The provider that a langbatch class and its keyword arguments name.

    Raises:
        TypeError: a class, or a client, that is not supported.
        ValueError: no API key; a client whose settings our calls would not have.
    """
    if not any(is_class(base, "langbatch.openai", "OpenAIBatch") for base in batch_type.__mro__):
        raise TypeError(
            f"{batch_type.__module__}.{batch_type.__qualname__} is not supported yet; supported"
            " are langbatch.openai.OpenAIChatCompletionBatch and OpenAIEmbeddingBatch, subclasses"
            " of them, and anybatch.providers.OpenAI(base_url=…) for servers that speak OpenAI's"
            " Batch API, such as Azure's v1"
        )
    return LangbatchProvider(batch_type, batch_kwargs)


class LangbatchProvider(OpenAI):
    """A langbatch OpenAI class as a provider.

    The class gives the format, its validation and its endpoint, its client the address and the
    key; the calls are ours, but for those halves of a batch's life that a user's subclass
    overrides: they run in worker threads, each apart, never retried by the SDK.

    Args:
        batch_type: `OpenAIChatCompletionBatch`, `OpenAIEmbeddingBatch`, or a subclass.
        batch_kwargs: what it is constructed with beside the file.
    """

    def __init__(self, batch_type: type, batch_kwargs: Mapping[str, Any]) -> None:
        self.batch_type = batch_type
        self._kwargs = dict(batch_kwargs)
        self._own = frozenset(name for name in _HALVES if overrides(batch_type, name))
        # Defect worked around: a Batch reads and validates its whole file twice when constructed.
        self._unread = subclass(batch_type, _validate_requests=do_nothing)
        self._prototype = self._construct()
        super().__init__(str(cast("Any", batch_type)._url), **self._settings())
        self._calls = OwnCalls(self._unread, self._kwargs, self._key)
        if overrides(batch_type, "start") or overrides(batch_type, "retry"):
            logger.warning(
                "%s.start() and retry() are never called, because they may buy twice; override"
                " _upload_batch_file and _create_batch instead",
                batch_type.__qualname__,
            )

    @property
    def builds_partial(self) -> bool:
        """Whether the class itself makes lines of partial requests."""
        names = ("create", "_create_batch_file", "_create_batch_file_from_requests")
        return self._overrides_any(*names, "_validate_requests")

    @property
    def builds_full(self) -> bool:
        """Whether the class itself makes lines of full requests."""
        names = ("create_from_requests", "_create_batch_file_from_requests")
        return self._overrides_any(*names, "_validate_requests")

    @property
    def profile(self) -> str:
        if self.builds_partial or self.builds_full:
            return f"{self.batch_type.__module__}:{self.batch_type.__qualname__}"
        return "openai"

    def check(self, request: Mapping[str, Any]) -> None:
        url = request.get("url", self.endpoint)
        if url != self.endpoint:
            raise RequestRejected(
                f"url {url!r}: {self.batch_type.__name__} has one endpoint, {self.endpoint};"
                " use a handler of its own for another"
            )
        # Defect worked around: langbatch's schemas do not look into the messages.
        if not overrides(self.batch_type, "_validate_request"):
            super().check(request)
        try:
            self._prototype._validate_request(plain(request.get("body")))
        except Exception as exc:
            raise RequestRejected(
                f"{self.batch_type.__name__} refuses the request: {exc!s:.500}; mend it"
            ) from exc

    def build(
        self, requests: Sequence[Any], kwargs: Mapping[str, Any], *, partial: bool
    ) -> list[bytes]:
        """Let the class make the lines of a batch file, by position. Blocking.

        Raises:
            RequestRejected: it refused one of the requests, or did not make one line of each.
        """
        with tempfile.TemporaryDirectory(prefix="anybatch-") as directory:
            recorder = self._recorder(Path(directory))
            values = [plain(request) for request in requests]
            try:
                if partial:
                    batch = recorder.create(values, dict(kwargs), self._kwargs)
                else:
                    batch = recorder.create_from_requests(values, self._kwargs)
            except Exception as exc:
                name = self.batch_type.__name__
                raise RequestRejected(f"{name} refuses: {exc!s:.500}; mend the request") from exc
            return built_lines(Path(batch._file), len(values))

    def finished(
        self, batch_id: str, platform_id: str | None, requests_path: Path, rows_path: Path
    ) -> Any:
        """An instance of the class whose results are the collected rows; no call is made.

        Defect worked around: langbatch downloads again at each `get_results()`, and one malformed
        row, or an error file alone, loses all of them.
        """
        own: dict[str, Any] = {"_download_results_file": _constant(rows_path)}
        if not overrides(self.batch_type, "_prepare_results"):
            own["_prepare_results"] = prepare_results
        batch: Any = object.__new__(subclass(self._unread, **own))
        batch.__dict__.update(self._prototype.__dict__)
        batch.id, batch.platform_batch_id, batch._file = batch_id, platform_id, str(requests_path)
        return batch

    def save(self, batch_id: str, path: Path, storage: Any) -> None:
        """Save the file as a batch that has not been started, in a langbatch storage. Blocking."""
        batch = self._unread(str(path), **self._kwargs)
        batch.id = batch_id
        batch.save(storage)

    async def upload(self, path: Path, name: str) -> str:
        if "_upload_batch_file" not in self._own:
            return await super().upload(path, name)
        return await run_sync(self._calls.upload, path, name)

    def create(self, file_id: str, endpoint: str, trace: str) -> RemoteBatch:
        if "_create_batch" not in self._own:
            return super().create(file_id, endpoint, trace)
        return self._calls.create(file_id, trace)

    async def status(self, batch_ids: Sequence[str]) -> dict[str, RemoteBatch]:
        if "get_status" not in self._own:
            return await super().status(batch_ids)
        own_files = "_download_results_file" in self._own
        known = {} if own_files else await super().status(batch_ids)
        found: dict[str, RemoteBatch] = {}
        for batch_id in batch_ids:
            status = await run_sync(self._calls.status, batch_id)
            if status is not None:
                found[batch_id] = attrs.evolve(
                    known.get(batch_id) or RemoteBatch(batch_id, ""), status=status
                )
        return found

    async def results(self, batch: RemoteBatch) -> AsyncGenerator[bytes, None]:
        if "_download_results_file" not in self._own:
            async with contextlib.aclosing(super().results(batch)) as rows:
                async for row in rows:
                    yield row  # noqa: ASYNC119 - read under aclosing()
            return
        path = await run_sync(self._calls.results, batch.id)
        if path is not None:
            async with contextlib.aclosing(file_rows(path)) as rows:
                async for row in rows:
                    yield row  # noqa: ASYNC119 - read under aclosing()

    async def cancel(self, batch_id: str) -> None:
        if "cancel" not in self._own:
            await super().cancel(batch_id)
        else:
            await run_sync(self._calls.cancel, batch_id)

    def _construct(self) -> Any:
        try:
            return self._unread("", **self._kwargs)
        except openai_module().OpenAIError as exc:
            raise ValueError(
                f"{self.batch_type.__name__} has no client: {exc}; set the environment variable"
                ' OPENAI_API_KEY, or give batch_kwargs={"client": OpenAI(api_key=…)}'
            ) from exc

    def _settings(self) -> dict[str, Any]:
        """What our calls take over from the class's client."""
        client = self._prototype._client
        if any(base.__module__ == "openai.lib.azure" for base in type(client).__mro__):
            raise TypeError(
                "AzureOpenAI clients are not supported yet; give Azure's v1 address:"
                " anybatch.providers.OpenAI(base_url=…/openai/v1, api_key=…)"
            )
        if (
            type(client._client).__name__ != "SyncHttpxClientWrapper"
            or client._custom_query
            or not isinstance(client.api_key, str)
            or getattr(client, "_api_key_provider", None) is not None
        ):
            raise ValueError(
                "the client has an http_client, a default_query or a function for its key, which"
                " our calls would not have; give anybatch.providers.OpenAI(transport=…, …) instead"
            )
        return {
            "base_url": str(client.base_url),
            "api_key": client.api_key,
            "organization": client.organization,
            "project": client.project,
            "headers": dict(client._custom_headers),
        }

    def _recorder(self, directory: Path) -> Any:
        """The class, writing into a directory of ours, and validating without a word.

        Defect worked around: langbatch logs a refused request, its prompt with it, at INFO.
        """
        own: dict[str, Any] = {}
        if not overrides(self.batch_type, "_create_batch_file_from_requests"):
            own["_create_batch_file_from_requests"] = classmethod(writer(directory))
        if not overrides(self.batch_type, "_validate_requests"):
            own["_validate_requests"] = validate_quietly
        return subclass(self.batch_type, **own)

    def _overrides_any(self, *names: str) -> bool:
        return any(overrides(self.batch_type, name) for name in names)


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value
