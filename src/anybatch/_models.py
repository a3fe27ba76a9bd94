"""Values that travel between the stages: frozen, without behaviour beyond pure questions."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

if TYPE_CHECKING:
    from ._receipts import Receipt

Json = Any  # a JSON value: None, bool, int, float, str, list, dict
Ranges = tuple[tuple[int, int], ...]  # half-open ranges of log numbers, ascending


@attrs.define(frozen=True)
class RawRequest:
    """A request that is JSON text already; its spelling is kept to the byte.

    Args:
        json: the UTF-8 text of one JSON value.
    """

    json: bytes


class Answer(dict[str, Any]):
    """A response body in OpenAI's format: a dict with three short cuts.

    `.custom_id` is the id of the request it answers.
    """

    __slots__ = ("custom_id",)

    def __init__(self, body: Mapping[str, Any], *, custom_id: str) -> None:
        super().__init__(body)
        self.custom_id: str = custom_id

    @property
    def text(self) -> str:
        """The text of the first choice (chat), of all output text (Responses), else `""`."""
        choices = self.get("choices")
        if choices:
            return _content_text(choices[0].get("message", {}).get("content"))
        # A Responses body can hold several message items, the first cut off: join them all.
        items = [item for item in self.get("output") or () if item.get("type") == "message"]
        return "".join(_content_text(item.get("content")) for item in items)

    @property
    def usage(self) -> dict[str, Any]:
        """The provider's token counts; empty where it gave none."""
        return self.get("usage") or {}


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


class CutReason(enum.Enum):
    """Why a batch was cut."""

    COUNT = "count"
    SIZE = "size"
    AGE = "age"
    IDLE = "idle"
    FLUSH = "flush"
    CLOSE = "close"
    BLOCKED = "blocked"
    AGAIN = "again"  # a released or expired interval, leased once more


@attrs.frozen
class Backlog:
    """What is queued, at one moment.

    Args:
        count: requests queued.
        size: their bytes, newlines counted.
        oldest: when the oldest of them was accepted, on the queue's clock.
        now: what that clock says.
        head: the log number up to which the queue has been cut.
        blocked: whether a submitter stands in line.
    """

    count: int
    size: int
    oldest: float
    now: float
    head: int
    blocked: bool


@attrs.frozen
class Terms:
    """On what terms a batch may be cut, and what no batch exceeds.

    Args:
        count: requests that make a batch due, and that no batch exceeds.
        size: bytes, newlines counted, likewise; None: no bound.
        age: seconds after which the oldest request makes a batch due; None: never.
        minimum: requests below which count, size, age and a blocked submitter do not cut.
        position: everything the queue accepted up to here is due now, whatever the thresholds.
        reason: why, where `position` cuts.
        stores: uids of the handler stores whose plans can be executed here.
    """

    count: int
    size: int | None = None
    age: float | None = None
    minimum: int = 1
    position: int = 0
    reason: CutReason = CutReason.FLUSH
    stores: frozenset[str] = frozenset()

    def due(self, backlog: Backlog) -> CutReason | None:
        """Why a batch may be cut now from what is queued, or None if it may not."""
        count = backlog.count
        if count == 0:
            return None
        if backlog.head < self.position:
            return self.reason
        if count < self.minimum:
            return None
        if count >= self.count:
            return CutReason.COUNT
        if self.size is not None and backlog.size >= self.size:
            return CutReason.SIZE
        # The same sum as the deadline that a queue waits for: a difference could round below it.
        if self.age is not None and backlog.now >= backlog.oldest + self.age:
            return CutReason.AGE
        return CutReason.BLOCKED if backlog.blocked else None


@attrs.frozen
class PlanPart:
    """One batch of a plan: its id, and its members as ranges of log numbers."""

    id: str
    members: Ranges
    endpoint: str | None = None


@attrs.frozen
class Plan:
    """What an interval will become. Written once, before anything else is touched.

    Args:
        store: uid of the handler's store that the parts go to.
        parts: the batches.
        settings: what completes bare elements (request kwargs), so that whoever executes the plan
            writes the same bytes.
    """

    store: str
    parts: tuple[PlanPart, ...]
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class Lease:
    """The right to dispatch the interval `[start, stop)` of the log, until acked or released.

    Args:
        id: the interval's id, and its first batch's.
        start, stop: log numbers.
        count, size: members and their bytes (newlines counted), as cut.
        token: what tells this lease from the interval's earlier ones.
        reason: why it was cut.
        plan: the interval's plan, if an earlier owner wrote one.
    """

    id: str
    start: int
    stop: int
    count: int
    size: int
    token: str
    reason: CutReason
    plan: Plan | None = None


class Member(NamedTuple):
    """One element of a leased interval. In memory its record is at hand, elsewhere None."""

    number: int
    element: Any  # bytes (a line, or JSON text); for a function, the request as it was submitted
    record: Any = None


class Head(NamedTuple):
    """What packing needs to know of a request: pure data, so that packing is a pure function."""

    number: int
    custom_id: str
    group: tuple[str, str]  # endpoint, model: requests of different groups never share a file
    size: int  # bytes of the finished line, newline counted
    inputs: int = 1  # what the provider counts (embeddings: texts)


@attrs.frozen
class Limits:
    """What no batch of a provider exceeds.

    Args:
        requests: per batch.
        size: bytes per input file, newlines counted.
        minimum: requests below which the provider takes no batch.
        inputs: embeddings' texts per batch, all requests together; None: not counted.
        custom_id: regular expression that a whole custom id matches.
    """

    requests: int = 50_000
    size: int = 200_000_000
    minimum: int = 1
    inputs: int | None = None
    custom_id: str = r"(?s).{1,512}"


@attrs.frozen(eq=False)
class Part:
    """A batch on its way from the dispatcher to a handler's store.

    Args:
        id: the batch's id, all the way.
        interval: id of the interval it was cut from.
        queue: uid of the queue, so that overlaps are looked for in the right log.
        members: ranges of log numbers.
        endpoint: the provider's endpoint, such as `/v1/chat/completions`.
        count: requests.
        custom_ids: theirs, in the order of the lines.
        lines: starts an iteration over the finished lines, in chunks, without newlines; may be
            called again.
        receipts: receipts by custom id, as far as somebody may wait for them.
    """

    id: str
    interval: str
    queue: str
    members: Ranges
    endpoint: str
    count: int
    custom_ids: Sequence[str]
    lines: Callable[[], AsyncIterator[Sequence[bytes]]]
    receipts: Mapping[str, Receipt[Any]] = attrs.field(factory=dict[str, "Receipt[Any]"])


class Accepted(enum.Enum):
    """What a handler's store says to a part."""

    NEW = "new"
    KNOWN = "known"
    VOID = "void"
    OVERLAP = "overlap"


@attrs.frozen
class DeadLetter:
    """A request that cannot be dispatched, with its reason.

    Args:
        id: what `requeue` and `drop` take.
        custom_id: the request's, if it could be read.
        request: the JSON value; the text where it is no JSON.
        reason: why it is dead.
        time: when, in seconds since the epoch.
    """

    id: str
    custom_id: str | None
    request: Json
    reason: str
    time: float


@attrs.frozen
class DispatcherStatistics:
    """The dispatcher's counters at one moment. Ages in seconds, sizes in bytes."""

    requests_queued: int
    bytes_queued: int
    oldest_age: float
    requests_leased: int
    requests_submitted: int
    requests_dispatched: int
    batches_dispatched: int
    submitters_waiting: int
    requests_dead: int
    cuts: Mapping[str, int]
    dispatch_failures: int
    as_of: float


@attrs.frozen
class QueueStatistics:
    """What a queue holds. Ages in seconds, sizes in bytes, `unavailable_since` on its clock."""

    requests_queued: int = 0
    bytes_queued: int = 0
    oldest_age: float = 0.0
    requests_leased: int = 0
    requests_dead: int = 0
    requests_suspect: int = 0
    held: Mapping[str, str] = attrs.field(factory=dict[str, str])
    replanned: int = 0
    capacity: int = 0
    unavailable_since: float | None = None


@attrs.frozen
class HandlerStatistics:
    """A handler's batches by state, and what a person should know of."""

    batches: Mapping[str, int]
    held: tuple[str, ...] = ()
    rebought: int = 0
    bought_twice: int = 0
    rows_kept: int = 0


@attrs.frozen
class LineError:
    """A provider's complaint about one line (from 1) of the input file, or about all of it."""

    code: str
    message: str
    line: int | None = None


@attrs.frozen
class RemoteBatch:
    """A batch as its provider sees it.

    Args:
        id: the provider's id.
        status: `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `expired`,
            `cancelling` or `cancelled`; a status we do not know is passed on as it came.
        errors: why it failed, as the provider says.
        output_file_id, error_file_id, input_file_id: None where there is none.
        metadata: what we put in, if the provider echoes it.
        created_at: seconds since the epoch, or None.
        counts: `total`, `completed`, `failed`, as far as the provider says (not to be trusted).
    """

    id: str
    status: str
    errors: tuple[LineError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    input_file_id: str | None = None
    metadata: Mapping[str, str] = attrs.field(factory=dict[str, str])
    created_at: float | None = None
    counts: Mapping[str, int] = attrs.field(factory=dict[str, int])
