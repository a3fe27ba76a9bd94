"""Files and batches as the local provider keeps them: frozen, and JSON on disk as they stand."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .faults import BatchFault

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending = Literal["completed", "expired", "cancelled"]

TERMINAL: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})

_STAMPS: dict[Status, str] = {
    "in_progress": "in_progress_at",
    "finalizing": "finalizing_at",
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelling": "cancelling_at",
    "cancelled": "cancelled_at",
}


class FileRecord(Struct, frozen=True, kw_only=True):
    """A file: what was uploaded, or what a batch left. Its bytes lie beside it."""

    id: str
    number: int
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    def expired(self) -> bool:
        """Whether its time is over by the system's clock."""
        return self.expires_at is not None and time.time() >= self.expires_at

    def to_api(self) -> dict[str, Any]:
        """Return it as OpenAI's API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class LineError(Struct, frozen=True, kw_only=True):
    """Why a batch failed its validation. Lines are counted from 1; None: the file as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(Struct, frozen=True, kw_only=True):
    """OpenAI's `request_counts`."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Rows that were executed, well or not."""
        return self.completed + self.failed


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of all rows that were answered."""

    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, input_tokens: int, output_tokens: int) -> Usage:
        """Return the sum."""
        return Usage(
            input_tokens=self.input_tokens + input_tokens,
            output_tokens=self.output_tokens + output_tokens,
        )

    def to_api(self) -> dict[str, Any]:
        """Return it as OpenAI's API shows it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class BatchRecord(Struct, frozen=True, kw_only=True):
    """A batch. Each step of its life replaces the record; `number` counts creates from 1."""

    id: str
    number: int
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_expires_after: int | None = None
    status: Status = "validating"
    ending: Ending = "completed"
    stamps: dict[str, int] = {}
    errors: tuple[LineError, ...] = ()
    model: str | None = None
    tokens: int = 0
    counts: Counts = Counts()
    usage: Usage = Usage()
    output_file_id: str | None = None
    error_file_id: str | None = None
    fault: BatchFault = BatchFault()

    def moved(self, status: Status, **changes: Any) -> BatchRecord:
        """Return the record in its next status, stamped with the system's clock."""
        stamp = {_STAMPS[status]: int(time.time())}
        return msgspec.structs.replace(
            self, status=status, stamps={**self.stamps, **stamp}, **changes
        )

    def to_api(self) -> dict[str, Any]:
        """Return it as OpenAI's API shows it, the lies of its fault included."""
        counts = self.fault.counts if self.fault.counts and self.status in TERMINAL else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": self._errors(),
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self._file_id(self.output_file_id),
            "error_file_id": self._file_id(self.error_file_id),
            "created_at": self.created_at,
            "in_progress_at": None,
            "expires_at": self.expires_at,
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None,
            "cancelled_at": None,
            **self.stamps,
            "request_counts": counts or msgspec.structs.asdict(self.counts),
            "usage": self.usage.to_api(),
            "metadata": self.metadata,
        }

    def _errors(self) -> dict[str, Any] | None:
        if not self.errors:
            return None
        return {"object": "list", "data": [msgspec.structs.asdict(error) for error in self.errors]}

    def _file_id(self, file_id: str | None) -> str | None:
        if file_id is None and self.fault.empty_ids and self.status in TERMINAL:
            return ""
        return file_id
