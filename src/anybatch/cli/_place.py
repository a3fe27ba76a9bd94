"""Whose batches: a provider that is paid, or the local one, started for this run."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs

from ..abc import Provider
from ..local_provider import Engine, EngineUnavailable, FaultPlan, LocalProvider, choose_engine
from ..providers import OpenAI
from ._errors import UsageError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def best_engine(name: str | None) -> Engine:
    """The engine of this name, or the best there is; raises `UsageError` if it cannot run here."""
    try:
        return choose_engine(name)
    except EngineUnavailable as error:
        raise UsageError(str(error)) from error


def read_faults(path: Path | None) -> FaultPlan | None:
    """The fault plan in a file; raises `UsageError` if there is none."""
    try:
        return None if path is None else FaultPlan.from_file(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--faults {path}: {error}") from error


@attrs.frozen
class Open:
    """A provider that can be reached now.

    Args:
        provider: itself.
        wait_time: the longest pause between two looks at a batch, in seconds.
        find: its id of the batch with a trace, or None, where that is known for certain.
    """

    provider: Provider
    wait_time: float
    find: Callable[[str], str | None] | None = None


def _trace(batch: Mapping[str, Any]) -> str:
    metadata: Mapping[str, str] = batch["metadata"] or {}
    return metadata.get("anybatch", "")


@attrs.frozen
class Place:
    """Where batches go.

    Args:
        name: `local` or `openai`.
        engine: what answers at the local one.
        base_url: where another OpenAI-shaped API is.
        faults: what shall go wrong at the local one.
    """

    name: Literal["local", "openai"]
    engine: Engine | None = None
    base_url: str | None = None
    faults: FaultPlan | None = None

    @classmethod
    def choose(
        cls,
        name: Literal["local", "openai"],
        engine: str | None,
        base_url: str | None,
        faults: Path | None,
    ) -> Place:
        """The place that the options name.

        Raises:
            UsageError: it cannot be reached from here.
        """
        if name == "openai":
            place = cls(name, base_url=base_url)
            place._key()
            return place
        if base_url is not None:
            raise UsageError("--base-url is another server's; leave out --provider local")
        return cls(name, best_engine(engine), None, read_faults(faults))

    @property
    def default_model(self) -> str | None:
        """The model of requests that name none: the local provider has one, whatever its name."""
        return "local" if self.name == "local" else None

    @asynccontextmanager
    async def open(self, directory: Path) -> AsyncGenerator[Open]:
        """Reach it; the local one is started, and keeps its files below the directory."""
        if self.name == "openai":
            # A server on this machine is asked as often as the local provider.
            wait_time = 1.0 if self._near else 60.0
            yield Open(OpenAI(base_url=self.base_url, api_key=self._key()), wait_time)
            return
        where = directory / "provider"
        async with LocalProvider(self.engine, directory=where, faults=self.faults) as local:
            # It died with us, and nothing is on its way to it: what it has is all that there is.
            find = {_trace(batch): str(batch["id"]) for batch in local.batches()}.get
            yield Open(OpenAI(base_url=local.base_url, api_key="local"), 0.5, find)

    @property
    def _near(self) -> bool:
        return self.base_url is not None and urlsplit(self.base_url).hostname in LOOPBACK

    def _key(self) -> str:
        key = os.environ.get("OPENAI_API_KEY")
        if key:
            return key
        if self._near:
            return "local"
        raise UsageError(
            "there is no key: set the environment variable OPENAI_API_KEY, or use --provider local"
        )
