"""Request → element: checked and encoded once, before anything waits."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from ._encoding import encode, full_line, plain, with_id
from ._exceptions import RequestRejected
from ._models import RawRequest
from .abc import Provider


class Intake(Protocol):
    """Turns what was submitted into what is queued."""

    def prepare(self, request: Any, custom_id: str | None) -> tuple[str, Any, bool]:
        """The request's id, what is queued, and whether the user gave the id.

        Raises:
            RequestRejected: the request cannot be sent.
        """
        ...


def _id_source() -> Callable[[], str]:
    # Drawn by whoever enters, so that two processes, or a fork, never count in the same series.
    prefix, count = secrets.token_hex(6), itertools.count(1)
    return lambda: f"{prefix}-{next(count)}"


class FunctionIntake:
    """For a function: requests travel as they are."""

    def __init__(self) -> None:
        self._next_id = _id_source()

    def prepare(self, request: Any, custom_id: str | None) -> tuple[str, Any, bool]:
        if custom_id is None:
            return self._next_id(), request, False
        return _checked_id(custom_id, None), request, True


class ProviderIntake:
    """For a provider: requests become the lines they will be in the batch file.

    Args:
        provider: completes and checks.
        partial: whether requests are partial ones.
        settings: what completes partial requests.
        size: bytes that no line, its newline counted, exceeds.
    """

    def __init__(
        self, provider: Provider, *, partial: bool, settings: Mapping[str, Any], size: int
    ) -> None:
        self.provider = provider
        self.partial = partial
        self.settings = dict(settings)
        self.size = size
        self.builds = bool(getattr(provider, "builds_partial" if partial else "builds_full", False))
        self._pattern = re.compile(provider.limits.custom_id)
        self._next_id = _id_source()

    def prepare(self, request: Any, custom_id: str | None) -> tuple[str, Any, bool]:
        if self.builds:
            return self._as_given(request, custom_id)
        if self.partial:
            line_id = self._next_id() if custom_id is None else self._checked(custom_id)
            line = self._partial_line(request, line_id, self.settings)
            return line_id, self._within_size(line), custom_id is not None
        return self._full(request, custom_id)

    def _as_given(self, request: Any, custom_id: str | None) -> tuple[str, Any, bool]:
        given = custom_id if self.partial else _one_of(custom_id, _own_id(_value(request)))
        element = self._within_size(encode(request))
        return (self._next_id() if given is None else self._checked(given)), element, bool(given)

    def _full(self, request: Any, custom_id: str | None) -> tuple[str, Any, bool]:
        value: Any = _value(request)
        if not isinstance(value, Mapping):
            raise RequestRejected(
                f"a full request is an object, not {type(value).__name__}; submit a Batch API "
                'request, or construct the dispatcher with requests_type="partial"'
            )
        given = _one_of(custom_id, _own_id(value))
        line_id = self._next_id() if given is None else self._checked(given)
        self.provider.check({**value, "custom_id": line_id})
        line = full_line(request, line_id, url=self._url())
        return line_id, self._within_size(line), given is not None

    def finish(self, text: bytes, custom_id: str, settings: Mapping[str, Any]) -> bytes:
        """A finished line from an element that came by `add_requests`, or from elsewhere.

        Args:
            text: JSON: a full request or a bare partial one.
            custom_id: the id it gets if it has none.
            settings: the plan's, so that every owner writes the same bytes.

        Raises:
            RequestRejected: it cannot be sent.
        """
        value: Any = plain(RawRequest(text))
        if isinstance(value, dict) and "body" in value:
            own = _own_id(value)
            line_id = custom_id if own is None else self._checked(own)
            self.provider.check({**value, "custom_id": line_id})
            return self._within_size(full_line(RawRequest(text), line_id, url=self._url()))
        return self._within_size(self._partial_line(RawRequest(text), custom_id, settings))

    def _partial_line(self, request: Any, custom_id: str, settings: Mapping[str, Any]) -> bytes:
        if not isinstance(request, RawRequest):
            full = self.provider.complete(request, settings)
            self.provider.check({"custom_id": custom_id, **full})
            return with_id(full, custom_id)
        # Checked as a value, sent as the text it came as.
        value = self.provider.complete(_value(request), settings)
        self.provider.check({"custom_id": custom_id, **value})
        return with_id(self.provider.complete(request, settings), custom_id)

    def _url(self) -> str:
        return str(getattr(self.provider, "endpoint", ""))

    def _checked(self, custom_id: Any) -> str:
        return _checked_id(custom_id, self._pattern)

    def _within_size(self, line: bytes) -> bytes:
        if len(line) + 1 > self.size:
            raise RequestRejected(
                f"the request's line has {len(line) + 1:,} bytes, and a batch may have "
                f"{self.size:,}; shorten it, or raise size_threshold if that is the bound"
            )
        return line


def _value(request: Any) -> Any:
    """The JSON value of a request, whichever way it came."""
    if not isinstance(request, RawRequest):
        return request
    if not isinstance(request.json, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(request.json).__name__  # type: ignore[unreachable]  # untyped callers
        raise RequestRejected(f"a RawRequest of {kind}; give UTF-8 bytes: text.encode()")
    return plain(request)


def _own_id(value: Any) -> Any:
    """The id that a full request brings, None where it brings none; null is not an id."""
    if not isinstance(value, Mapping):
        return None
    fields = cast(Mapping[str, Any], value)
    own = fields.get("custom_id")
    if own is None and "custom_id" in fields:
        raise RequestRejected("custom_id is null; give a string that is not empty, or leave it out")
    return own


def _one_of(custom_id: str | None, own: Any) -> Any:
    if custom_id is not None and own is not None and custom_id != own:
        raise RequestRejected(
            f"the request says custom_id {own!r} and the call {custom_id!r}; give one of them"
        )
    return own if custom_id is None else custom_id


def _checked_id(custom_id: Any, pattern: re.Pattern[str] | None) -> str:
    if not isinstance(custom_id, str) or not custom_id:
        raise RequestRejected(f"custom_id is {custom_id!r}; give a string that is not empty")
    if pattern is not None and not pattern.fullmatch(custom_id):
        raise RequestRejected(
            f"the provider takes no custom_id like {custom_id[:80]!r}; it has to match "
            f"{pattern.pattern}"
        )
    return custom_id
