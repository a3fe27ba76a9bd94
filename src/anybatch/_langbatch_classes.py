"""langbatch's classes with some methods replaced: what makes them safe to call. Imports none of it.

Everything of langbatch's is `Any` here: it is untyped, and a user's subclass may be anything.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ._encoding import decode, encode, one_line, read_head
from ._exceptions import RequestRejected
from .providers import _http
from .providers.openai import TRACE


def is_class(cls: type, module: str, name: str) -> bool:
    """Whether it is the class of this name, told without importing it."""
    return cls.__module__ == module and cls.__name__ == name


def overrides(cls: type, name: str) -> bool:
    """Whether a user's subclass defines this method, and not langbatch."""
    definer = next((base for base in cls.__mro__ if name in base.__dict__), cls)
    return definer.__module__.partition(".")[0] != "langbatch"


def subclass(cls: type, **own: Any) -> Any:
    """A subclass that passes for the class itself, with some methods replaced."""
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **own}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(names))


def do_nothing(batch: Any) -> None:
    """In place of reading and validating the file."""


def validate_quietly(batch: Any) -> None:
    """In place of langbatch's validation, which logs a refused request, its prompt with it."""
    with Path(batch._file).open("rb") as file:
        for line in file:
            batch._validate_request(decode(line)["body"])


def writer(directory: Path) -> Callable[[Any, Sequence[Any]], Path]:
    """In place of `_create_batch_file_from_requests`: strict, and into a directory of ours."""

    def write(_: Any, requests: Sequence[Any]) -> Path:
        path = directory / "batch.jsonl"
        path.write_bytes(b"".join(encode(request) + b"\n" for request in requests))
        return path

    return write


def built_lines(path: Path, count: int) -> list[bytes]:
    """The lines of a file that the class wrote, one of each request, each with an id of its own."""
    lines = [one_line(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    ids = {read_head(number, line).custom_id for number, line in enumerate(lines)}
    if not len(ids) == len(lines) == count:
        raise RequestRejected(
            f"{len(lines)} lines with {len(ids)} ids were made of {count} requests;"
            " make one line of each, with a custom_id of its own"
        )
    return lines


@attrs.frozen
class Traced:
    """A client whose batches carry our trace; everything else is the client's."""

    wrapped: Any
    trace: str

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.wrapped, name)
        return _TracedBatches(found, self.trace) if name == "batches" else found


@attrs.frozen
class _TracedBatches:
    wrapped: Any
    trace: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def create(self, **arguments: Any) -> Any:
        theirs: Mapping[str, Any] = arguments.pop("metadata", None) or {}
        return self.wrapped.create(**arguments, metadata={**theirs, TRACE: self.trace})


def prepare_results(
    batch: Any, process: Callable[[Any], Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make langbatch's lists of results and errors, row by row: a bad one spoils no other."""
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    with Path(batch._download_results_file()).open("rb") as file:
        for line in file:
            row = _http.json_object(line)
            if "custom_id" not in row:
                continue  # nobody's: it belongs to no request
            try:
                body = row["response"]["body"] if row["response"]["status_code"] == 200 else None
                result = None if body is None else process(row)
            except (KeyError, TypeError, IndexError):
                result = None
            if result is None:
                bad.append({"custom_id": row["custom_id"], "error": _error_of(row)})
            else:
                good.append({"custom_id": row["custom_id"], **result})
    return good, bad


def _error_of(row: Mapping[str, Any]) -> Any:
    """The row's error, or what the response says; langbatch itself drops the latter."""
    if row.get("error"):
        return row["error"]
    try:
        return row["response"]["body"]["error"]
    except (KeyError, TypeError):
        return "No response from the API"
