"""Everything that anybatch raises, under one root, so that one `except` can take it all."""

from __future__ import annotations

from typing import Any


class AnybatchError(Exception):
    """The root of this package's own errors."""


class RequestRejected(AnybatchError, ValueError):
    """A request that cannot be sent as it is. Nothing of it was queued.

    The message names what is wrong, the offending value, and the remedy.
    """


class SubmitUncertain(AnybatchError):
    """The dispatcher left while a durable queue's write was under way: it may be in, or not."""


class FlushHeld(AnybatchError):
    """`flush()` cannot finish: intervals before its position are held, until somebody decides."""


class DrainTimeout(AnybatchError, TimeoutError):
    """Leaving took longer than `drain_timeout`; the message says how many requests remain.

    They are still in `dispatcher.queue`, in order.
    """


class DispatcherCrashed(AnybatchError):
    """A task of the dispatcher raised. The cause is the group of what was raised."""


class HandlerCrashed(AnybatchError):
    """A task of the handler raised. The cause is the group of what was raised."""


class QueueMismatch(AnybatchError):
    """The queue holds requests in another provider's format."""


class QueueDamaged(AnybatchError):
    """The queue's storage lost what it had accepted."""


class StoreInUse(AnybatchError):
    """Another handler has entered this store."""


class StorageDamaged(AnybatchError):
    """A batch's stored bytes are not what was written."""


class UnknownBatch(AnybatchError, LookupError):
    """The storage has no bytes for this batch id."""


class ForkedError(AnybatchError, RuntimeError):
    """An object that was open in the parent is used in a forked child."""


class LeaseLost(AnybatchError):
    """Another owner has the lease now; nothing this one says about it counts any more."""


class ReceiptError(AnybatchError):
    """What awaiting a receipt raises. Every await raises a new instance.

    Attributes:
        custom_id: the request's id, or None if the request never got one.
    """

    def __init__(self, message: str, *, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.custom_id = custom_id


class RequestFailed(ReceiptError):
    """The request has its end, and it is not an answer. Final.

    Attributes:
        code: the provider's code, or ours, in the provider's style (`below_minimum`).
        message: the provider's words, or ours.
        custom_id: the request's id.
    """

    def __init__(self, message: str, *, code: str | None = None, custom_id: str | None = None):
        super().__init__(message, custom_id=custom_id)
        self.code = code

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.code else self.message


class RequestCancelled(RequestFailed):
    """The request, or its batch, was cancelled before it had an answer."""


class RequestExpired(RequestFailed):
    """The provider's window ended before the request was answered, too often to try again."""


class RequestAbandoned(ReceiptError):
    """Nobody here waits for the answer any more. Not final: the request lives on.

    Do not submit it again: it stays in the queue, or in its batch.
    """


class ResultUnavailable(ReceiptError):
    """The answer goes somewhere else. Not final: the request lives on; do not submit it again."""


class ProviderError(AnybatchError):
    """A call to a provider failed.

    Attributes:
        status: the HTTP status, or None where there was no reply.
        code: the provider's code, if it gave one.
        retry_after: seconds to wait, as the provider asked, or None.
        transient: whether the same call may succeed later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        transient: bool = False,
        detail: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.transient = transient
        self.detail = detail


class NotSent(ProviderError):
    """The call never left this machine (name look-up, connect, TLS, pool): nothing was bought."""


class Refused(ProviderError):
    """The provider answered that it did not do it (4xx but 408 and 409): nothing was bought."""


class OutcomeUnknown(ProviderError):
    """The call was sent and no usable answer came: it may have been done. Never retried."""
