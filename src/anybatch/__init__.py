"""A stream of single requests in, provider batches at half the price, every answer back."""

from __future__ import annotations

from ._dispatcher import BatchDispatcher as BatchDispatcher
from ._exceptions import AnybatchError as AnybatchError
from ._exceptions import DispatcherCrashed as DispatcherCrashed
from ._exceptions import DrainTimeout as DrainTimeout
from ._exceptions import FlushHeld as FlushHeld
from ._exceptions import ForkedError as ForkedError
from ._exceptions import HandlerCrashed as HandlerCrashed
from ._exceptions import LeaseLost as LeaseLost
from ._exceptions import NotSent as NotSent
from ._exceptions import OutcomeUnknown as OutcomeUnknown
from ._exceptions import ProviderError as ProviderError
from ._exceptions import QueueDamaged as QueueDamaged
from ._exceptions import QueueMismatch as QueueMismatch
from ._exceptions import ReceiptError as ReceiptError
from ._exceptions import Refused as Refused
from ._exceptions import RequestAbandoned as RequestAbandoned
from ._exceptions import RequestCancelled as RequestCancelled
from ._exceptions import RequestExpired as RequestExpired
from ._exceptions import RequestFailed as RequestFailed
from ._exceptions import RequestRejected as RequestRejected
from ._exceptions import ResultUnavailable as ResultUnavailable
from ._exceptions import StorageDamaged as StorageDamaged
from ._exceptions import StoreInUse as StoreInUse
from ._exceptions import SubmitUncertain as SubmitUncertain
from ._exceptions import UnknownBatch as UnknownBatch
from ._handler import BatchHandler as BatchHandler
from ._models import Answer as Answer
from ._models import DeadLetter as DeadLetter
from ._models import DispatcherStatistics as DispatcherStatistics
from ._models import HandlerStatistics as HandlerStatistics
from ._models import QueueStatistics as QueueStatistics
from ._models import RawRequest as RawRequest
from ._receipts import Receipt as Receipt

# Users see `anybatch.RequestFailed` in a traceback, not the module it happens to be written in.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("anybatch."):
        _value.__module__ = __name__
