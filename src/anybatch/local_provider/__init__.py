"""A provider of one's own: OpenAI's Files and Batch API, served in this process.

For trying things out without a key, for tests, and for language models that run here. It behaves
as OpenAI does, or as badly as a fault plan says, and counts what was bought::

    async with LocalProvider() as provider:
        client = AsyncOpenAI(base_url=provider.base_url, api_key="none")
        ...
        assert not provider.statistics().bought_twice
"""

from .app import Settings as Settings
from .app import create_app as create_app
from .echo import body_digest as body_digest
from .engines import ENDPOINTS as ENDPOINTS
from .engines import EchoEngine as EchoEngine
from .engines import Engine as Engine
from .engines import choose_engine as choose_engine
from .errors import ApiError as ApiError
from .errors import ConnectionDropped as ConnectionDropped
from .errors import EngineUnavailable as EngineUnavailable
from .faults import BatchFault as BatchFault
from .faults import CallFault as CallFault
from .faults import FaultPlan as FaultPlan
from .faults import RowFault as RowFault
from .server import LocalProvider as LocalProvider
from .server import serve as serve
from .statistics import Statistics as Statistics
from .transport import InProcessTransport as InProcessTransport
from .validation import Limits as Limits

# Users see `anybatch.local_provider.LocalProvider`, not the module it happens to be written in. The
# structs of a fault plan stay where they are: msgspec reads their annotations in their own module.
for _value in (
    ApiError,
    ConnectionDropped,
    EchoEngine,
    Engine,
    EngineUnavailable,
    InProcessTransport,
    Limits,
    LocalProvider,
    Settings,
    Statistics,
    body_digest,
    choose_engine,
    create_app,
    serve,
):
    _value.__module__ = __name__
