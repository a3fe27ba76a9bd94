"""The calls that a user's langbatch class makes itself: each apart, blocking, and never retried."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, cast

import attrs

from ._exceptions import NotSent, OutcomeUnknown, ProviderError
from ._langbatch_classes import Traced
from ._models import RemoteBatch
from ._threads import run_sync
from .providers import _http

_UNSENT: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)
_TIMEOUT: Final = 120.0  # seconds for a call of theirs
_LINES: Final = 500  # rows read in one visit to a thread


def openai_module() -> Any:
    """The `openai` package, which langbatch has imported already."""
    return importlib.import_module("openai")


@attrs.frozen(eq=False)
class OwnCalls:
    """One call each, on an instance of its own, which reads no file when it is made.

    Args:
        batch_type: the class, changed so that it does not read its file.
        batch_kwargs: what it is constructed with beside the file.
        secret: what no error shows.
    """

    batch_type: Any
    batch_kwargs: Mapping[str, Any]
    secret: str = attrs.field(repr=False)

    def upload(self, path: Path, name: str) -> str:
        """Upload a private copy of the file; returns the provider's file id."""
        # Defect worked around: an upload may rewrite the file in place (Azure's does).
        with tempfile.TemporaryDirectory(prefix="anybatch-") as directory:
            copy = Path(directory) / Path(name).name
            shutil.copyfile(path, copy)
            with self._guarded("uploading the batch file"):
                file_id = self._started(copy)._upload_batch_file()
        if not (isinstance(file_id, str) and file_id):
            raise ProviderError(f"_upload_batch_file() returned {file_id!r}; return the file's id")
        return file_id

    def create(self, file_id: str, trace: str) -> RemoteBatch:
        """Buy the batch, once; its outcome is told apart as `Provider.create` does."""
        batch = self._started("")
        batch._client = Traced(batch._client, trace)
        try:
            batch._create_batch(file_id)
        except Exception as exc:
            raise self._failed_create(exc) from exc
        platform_id = batch.platform_batch_id
        if not (isinstance(platform_id, str) and platform_id):
            raise OutcomeUnknown("_create_batch() set no platform_batch_id; a batch may exist")
        return RemoteBatch(platform_id, "validating", input_file_id=file_id)

    def status(self, batch_id: str) -> str | None:
        """Its status, or None where the provider does not know it."""
        try:
            with self._guarded(f"get_status() of {batch_id}"):
                return str(self._started("", batch_id).get_status())
        except ProviderError as exc:
            if exc.status == 404:
                return None
            raise

    def results(self, batch_id: str) -> Path | None:
        """The file of its rows that the class downloaded, or None where there are none."""
        with self._guarded(f"_download_results_file() of {batch_id}"):
            path = self._started("", batch_id)._download_results_file()
        return None if path is None else Path(path)

    def cancel(self, batch_id: str) -> None:
        """Cancel it."""
        with self._guarded(f"cancel() of {batch_id}"):
            self._started("", batch_id).cancel()

    def _started(self, path: Path | str, platform_id: str | None = None) -> Any:
        """An instance for one call, whose client does not retry.

        Defect worked around: the SDK repeats a POST twice, with no key that makes it one.
        """
        batch = self.batch_type(str(path), **self.batch_kwargs)
        batch.platform_batch_id = platform_id
        batch._client = batch._client.with_options(max_retries=0, timeout=_TIMEOUT)
        return batch

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Generator[None]:
        openai = openai_module()
        try:
            yield
        except openai.APIStatusError as exc:
            raise _http.bad_status(what, exc.response, self.secret) from exc
        except (openai.APIConnectionError, OSError) as exc:
            message = f"{what}: {_http.describe(exc)}"
            raise ProviderError(message, transient=True) from exc
        except ProviderError:
            raise
        except Exception as exc:
            raise ProviderError(f"{what}: {_http.describe(exc)}") from exc

    def _failed_create(self, exc: Exception) -> ProviderError:
        openai = openai_module()
        if isinstance(exc, openai.APIStatusError):
            return _http.bad_create(cast("Any", exc).response, self.secret)
        if isinstance(exc, openai.APIConnectionError) and type(exc.__cause__).__name__ in _UNSENT:
            return NotSent(f"creating the batch: {_http.describe(exc)}", transient=True)
        return OutcomeUnknown(f"creating the batch: {_http.describe(exc)}; it may exist")


async def file_rows(path: Path) -> AsyncGenerator[bytes, None]:
    """The lines of a file, without blank ones, read in threads."""
    file = await run_sync(_open_file, path)
    try:
        while lines := await run_sync(_some_lines, file):
            for line in lines:
                if row := line.strip():
                    yield row
    finally:
        file.close()


def _open_file(path: Path) -> BufferedReader:
    return path.open("rb")


def _some_lines(file: BufferedReader) -> list[bytes]:
    return [line for _, line in zip(range(_LINES), file, strict=False)]
