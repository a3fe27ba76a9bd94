"""`anybatch provider`: the local provider as a process of its own."""

from __future__ import annotations

from pathlib import Path

import anyio
import attrs

from ..local_provider import LocalProvider
from ._errors import ANSWERED, UsageError
from ._place import best_engine, read_faults
from ._stopping import Stop


@attrs.frozen(kw_only=True)
class Server:
    """What to serve, and where; as `LocalProvider` has it, `faults` being a file."""

    engine: str | None
    host: str
    port: int
    directory: Path | None
    faults: Path | None
    api_key: str | None
    delay: float

    async def serve(self) -> int:
        """Serve until a signal comes; returns the exit status.

        Raises:
            UsageError: it cannot be served so.
        """
        engine = best_engine(self.engine)
        provider = LocalProvider(
            engine,
            host=self.host,
            port=self.port,
            directory=self.directory,
            faults=read_faults(self.faults),
            api_key=self.api_key,
            delay=self.delay,
        )

        async def until_stopped() -> None:
            try:
                async with provider:
                    print(provider.base_url, flush=True)
                    await anyio.sleep_forever()
            except (OSError, RuntimeError) as error:
                raise UsageError(f"the provider cannot be served: {error}") from error

        await Stop().guard(until_stopped, anyio.sleep_forever)
        return ANSWERED
