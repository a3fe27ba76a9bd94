"""The life of a batch as one table of legal states, and its record: the fold of its story.

Pure and sync. A story is append-only; what a batch is now is what its entries, applied one after
the other, make of it. An entry that the table does not know is refused before it is written.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ._exceptions import NotSent, ProviderError, Refused
from ._models import LineError, RemoteBatch


class State(enum.Enum):
    """Where a batch is in its life."""

    ACCEPTED = "accepted"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    CREATING = "creating"
    HELD = "held"
    CREATED = "created"
    ENDED = "ended"
    REFUSED = "refused"
    COLLECTED = "collected"
    DONE = "done"
    VOID = "void"


class Event(enum.Enum):
    """What an entry of the story says."""

    UPLOAD = "upload"
    UPLOADED = "uploaded"
    CREATE = "create"
    CREATED = "created"
    NOT_CREATED = "not_created"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    AGAIN = "again"
    CANCEL = "cancel"
    ENDED = "ended"
    COLLECTED = "collected"
    PROCESSED = "processed"


LEGAL: Final[Mapping[tuple[State, Event], State]] = {
    # An intent without its outcome: an upload is made again, a create never is.
    (State.ACCEPTED, Event.UPLOAD): State.UPLOADING,
    (State.UPLOADING, Event.UPLOAD): State.UPLOADING,
    (State.UPLOADING, Event.UPLOADED): State.UPLOADED,
    (State.UPLOADED, Event.CREATE): State.CREATING,
    (State.CREATING, Event.CREATED): State.CREATED,
    (State.CREATING, Event.NOT_CREATED): State.UPLOADED,
    (State.CREATING, Event.UNKNOWN): State.HELD,
    # Nothing was bought, and nothing will be: refused by the provider, or cancelled in time.
    (State.ACCEPTED, Event.REFUSED): State.REFUSED,
    (State.UPLOADING, Event.REFUSED): State.REFUSED,
    (State.UPLOADED, Event.REFUSED): State.REFUSED,
    (State.CREATING, Event.REFUSED): State.REFUSED,
    # A person decides.
    (State.HELD, Event.CREATED): State.CREATED,
    (State.HELD, Event.AGAIN): State.ACCEPTED,
    # Bought by somebody else, langbatch's own handler for one, and taken over.
    (State.ACCEPTED, Event.CREATED): State.CREATED,
    (State.ACCEPTED, Event.UNKNOWN): State.HELD,
    (State.CREATED, Event.CANCEL): State.CREATED,
    (State.CREATED, Event.ENDED): State.ENDED,
    (State.ENDED, Event.COLLECTED): State.COLLECTED,
    (State.REFUSED, Event.COLLECTED): State.COLLECTED,
    (State.COLLECTED, Event.PROCESSED): State.DONE,
}
"""What may follow what. Everything else is a defect."""

FINISHED: Final = frozenset({State.DONE, State.VOID})
"""States that nothing follows."""

PENDING: Final = frozenset({State.ACCEPTED, State.UPLOADING, State.UPLOADED, State.CREATING})
"""States before the purchase; langbatch calls such a batch pending."""

SAFE: Final = frozenset({State.COLLECTED, State.DONE})
"""States in which every request has its end on disk."""

ENDS: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""A provider's statuses after which nothing changes any more."""


class IllegalTransition(Exception):
    """An entry was to be written that the table does not allow: a defect of ours."""


@attrs.frozen
class Entry:
    """One sentence of a batch's story.

    Args:
        event: what happened, or is about to.
        time: seconds since the epoch.
        detail: JSON values: ids, words of the provider, the account's digest.
    """

    event: Event
    time: float
    detail: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class Record:
    """A batch as its story tells it.

    Args:
        id: the batch's id, as its owner names it.
        key: the id where it is safe in paths and names, else a digest of it.
        queue, interval: where its requests come from; empty for a foreign batch.
        endpoint: the provider's endpoint.
        count, size: requests, and bytes of its file.
        profile: whose format its lines have.
        time: when it was accepted, in seconds since the epoch.
        length: entries in its story.
        attempt: which try at the provider this is, from 1.
    """

    id: str
    key: str
    queue: str
    interval: str
    endpoint: str
    count: int
    size: int
    profile: str
    time: float
    state: State = State.ACCEPTED
    length: int = 0
    attempt: int = 1
    file_id: str | None = None
    platform_id: str | None = None
    bought_at: float | None = None
    cancelled: bool = False
    code: str | None = None
    message: str = ""
    remote: RemoteBatch | None = None

    @property
    def attempt_id(self) -> str:
        """The trace of this attempt: `<key>`, then `<key>-r2`, and so on."""
        return self.key if self.attempt == 1 else f"{self.key}-r{self.attempt}"

    def after(self, entry: Entry) -> Record:
        """The record with one more entry.

        Raises:
            IllegalTransition: the table does not allow it.
        """
        state = LEGAL.get((self.state, entry.event))
        if state is None:
            raise IllegalTransition(f"{entry.event.value} of a batch that is {self.state.value}")
        return attrs.evolve(self, state=state, length=self.length + 1, **_changes(self, entry))


def _changes(record: Record, entry: Entry) -> dict[str, Any]:
    detail = entry.detail
    match entry.event:
        case Event.UPLOADED:
            return {"file_id": detail["file_id"]}
        case Event.CREATED:
            return {"platform_id": detail["platform_id"], "bought_at": entry.time}
        case Event.REFUSED | Event.UNKNOWN | Event.NOT_CREATED:
            return {"code": detail.get("code"), "message": detail["message"]}
        case Event.AGAIN:
            return {"attempt": record.attempt + 1, "file_id": None, "code": None, "message": ""}
        case Event.CANCEL:
            return {"cancelled": True}
        case Event.ENDED:
            return {"remote": remote_from_json(detail["remote"])}
        case _:
            return {}


def replay(record: Record, story: Iterable[Entry]) -> Record:
    """What a story makes of a batch that was just accepted."""
    for entry in story:
        record = record.after(entry)
    return record


def remote_to_json(remote: RemoteBatch) -> dict[str, Any]:
    """The provider's view of a batch as JSON values."""
    return attrs.asdict(remote)


def remote_from_json(value: Mapping[str, Any]) -> RemoteBatch:
    """The inverse of `remote_to_json`."""
    fields: dict[str, Any] = dict(value)
    fields["errors"] = tuple(LineError(**error) for error in value["errors"])
    return RemoteBatch(**fields)


class Verdict(enum.Enum):
    """What a failed call means for the batch."""

    AGAIN = "again"
    ACCOUNT = "account"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def verdict(error: ProviderError) -> Verdict:
    """What a failed create means: whether it may go again, and whether anybody knows."""
    if isinstance(error, NotSent):
        return Verdict.AGAIN
    if error.status in {401, 402, 403}:
        return Verdict.ACCOUNT  # an upload's too: whoever waits learns of the wrong key now
    if not isinstance(error, Refused):
        return Verdict.UNKNOWN
    if error.status == 429 or error.transient:
        return Verdict.AGAIN
    return Verdict.REFUSED
