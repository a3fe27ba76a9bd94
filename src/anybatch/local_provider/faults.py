"""What shall go wrong, as frozen values that are also JSON: a `FaultPlan` of three kinds of rules.

Rules are looked at in order, and the first that applies is used. What a rule has done already is
counted by the running provider and starts at nothing in each; the fault of a batch is fixed when
the batch is created and is kept with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

CallKind = Literal[
    "status", "reset", "slow", "late", "accept_and_drop", "accept_and_status", "torn"
]
RowKind = Literal["error", "missing", "zero", "malformed", "oversized", "stranger", "twice"]


class CallFault(Struct, frozen=True, forbid_unknown_fields=True):
    """How a call to the API goes wrong.

    Args:
        route: which calls, as a shell pattern: `files.create`, `files.list`, `files.retrieve`,
            `files.delete`, `files.content`, `batches.create`, `batches.list`,
            `batches.retrieve`, `batches.cancel`, `live.create`, `models.list`; `batches.*`, `*`.
        kind: what happens.

            - `status`: answered with `status`; nothing is done.
            - `reset`: the connection is closed without an answer; nothing is done.
            - `slow`: nothing is done for `seconds`, then all is well.
            - `late`: it is done, and the answer comes `seconds` later.
            - `accept_and_drop`: it is done, and the connection is closed without an answer.
            - `accept_and_status`: it is done, and answered with `status`.
            - `torn`: the answer ends after `after_bytes` bytes of its body.
        status: an HTTP status.
        code: the word in the body's `error.code`.
        message: the sentence in the body's `error.message`.
        retry_after: seconds in a `Retry-After` header; None: no such header.
        seconds: how long to wait: before doing anything where nothing is done (and for `slow`),
            else before answering.
        after_bytes: how much of a torn body is sent.
        skip: so many calls that match go well first.
        times: so many calls then go wrong; None: all of them.
        chance: a call that would go wrong does so with this probability, drawn from the plan's
            `seed`.
    """

    route: str
    kind: CallKind = "status"
    status: int = 503
    code: str | None = None
    message: str = "The server had an error while processing your request."
    retry_after: float | None = None
    seconds: float = 0.0
    after_bytes: int = 0
    skip: int = 0
    times: int | None = 1
    chance: float = 1.0


class RowFault(Struct, frozen=True, forbid_unknown_fields=True):
    """How rows of a batch go wrong. A row must match all of the conditions that are given.

    Args:
        kind: what becomes of the row.

            - `error`: a row in the error file with `status`, `code`, `message`; it is not billed.
            - `missing`: executed and billed, in neither file.
            - `zero`: in the error file, with `status_code` 0 and an empty body.
            - `malformed`: executed and billed, its line in the output file is no JSON.
            - `oversized`: executed and billed, its line is `bytes` longer.
            - `stranger`: executed and billed, in the output file under `as_id`.
            - `twice`: executed and billed once, in the output file twice.
        custom_id: a shell pattern.
        index: positions in the input file, from 0.
        every: each so-manieth row, the first being one of them.
        batch: which batches, counted by creates from 1.
        times: each custom id goes wrong so many times, then well; None: always.
        status: the row's `status_code`.
        code: the word in the row's `body.error.code`.
        message: the sentence in the row's `body.error.message`.
        bytes: by how much an oversized line is longer.
        as_id: a stranger's custom id, any JSON value.
    """

    kind: RowKind = "error"
    custom_id: str | None = None
    index: tuple[int, ...] | None = None
    every: int | None = None
    batch: tuple[int, ...] | None = None
    times: int | None = None
    status: int = 400
    code: str | None = "invalid_request_error"
    message: str = "The fault plan refuses this request."
    bytes: int = 1_000_000
    as_id: Any = None


class BatchFault(Struct, frozen=True, forbid_unknown_fields=True):
    """How a batch goes wrong; several of these at once are possible.

    Args:
        nth: which batches, counted by creates from 1; None: all.
        expire_after: it expires when so many rows are done.
        cancel_after: the provider cancels it when so many rows are done.
        keep_rows: whether an expired or cancelled batch has files at all.
        list_rest: whether rows that were not executed are listed in the error file.
        fail_code: validation fails with this code, such as `token_limit_exceeded`.
        fail_message: and with this sentence.
        fail_line: and names this line, from 1.
        stuck_in: it stays in this status until it is cancelled, and never expires.
        stuck_after: so many rows are done before it gets stuck in `in_progress`.
        hidden_for: `retrieve` and `cancel` answer 404 for so many seconds after the create.
        unlisted_for: it is not in lists for so many seconds after the create.
        final_newline: whether its files end with a newline.
        empty_ids: `output_file_id` and `error_file_id` are `""` where they would be null.
        counts: `request_counts` of the ended batch, whatever really happened.
    """

    nth: tuple[int, ...] | None = None
    expire_after: int | None = None
    cancel_after: int | None = None
    keep_rows: bool = True
    list_rest: bool = True
    fail_code: str | None = None
    fail_message: str = "The fault plan fails this batch."
    fail_line: int | None = None
    stuck_in: Literal["validating", "in_progress", "finalizing"] | None = None
    stuck_after: int = 0
    hidden_for: float = 0.0
    unlisted_for: float = 0.0
    final_newline: bool = True
    empty_ids: bool = False
    counts: dict[str, int] | None = None

    def row_limit(self) -> int | None:
        """After how many rows execution ends before its time; None: it does not."""
        stuck = self.stuck_after if self.stuck_in == "in_progress" else None
        limits = [n for n in (self.expire_after, self.cancel_after, stuck) if n is not None]
        return min(limits, default=None)


class FaultPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """All that shall go wrong at a local provider.

    Args:
        calls: rules for calls to the API.
        rows: rules for the rows of batches.
        batches: rules for batches as a whole.
        seed: for the rules with a `chance`.
    """

    calls: tuple[CallFault, ...] = ()
    rows: tuple[RowFault, ...] = ()
    batches: tuple[BatchFault, ...] = ()
    seed: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> FaultPlan:
        """Read a plan from JSON text: an object with the names of the arguments.

        Raises:
            ValueError: for text that is no such plan; the message says where.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"this is no fault plan: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> FaultPlan:
        """Read a plan from a JSON file.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it holds no plan.
        """
        return cls.from_json(Path(path).read_bytes())

    def to_json(self) -> bytes:
        """Return the plan as JSON text, which `from_json` reads."""
        return msgspec.json.encode(self)
