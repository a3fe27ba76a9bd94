"""Write-once files: a temporary file, fsync, then a link that never overwrites. All blocking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

import attrs

from .._exceptions import StoreInUse

_SAFE = re.compile(r"[a-z0-9-]{1,63}")


def is_own_id(batch_id: str) -> bool:
    """Whether an id has the form of ours: `[a-z0-9-]`, at most 63 characters."""
    return _SAFE.fullmatch(batch_id) is not None


def key_of(batch_id: str) -> str:
    """A name for files: the id where it is safe, else a digest. Foreign ids never become paths."""
    if is_own_id(batch_id):
        return batch_id
    # An upper-case letter: no id of ours can be taken for it.
    return "H-" + hashlib.sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]


class Draft:
    """A file in the making, beside its later place; removed unless it is linked there.

    A thread may still write when its task is gone, so a lock stands between writing and removal:
    a file descriptor closed under a writer could be somebody else's by then.
    """

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        descriptor, name = tempfile.mkstemp(prefix=".draft-", dir=directory)  # mode 0600
        self._descriptor = descriptor
        self.path: Path = Path(name)
        self.size: int = 0

    def write(self, lines: Iterable[bytes]) -> None:
        """Append lines, each with its newline."""
        data = memoryview(b"".join(line + b"\n" for line in lines))
        with self._lock:
            while data:
                written = os.write(self._descriptor, data)
                self.size += written
                data = data[written:]

    def seal(self) -> None:
        """Bring it to the disk."""
        with self._lock:
            os.fsync(self._descriptor)

    def discard(self) -> None:
        """Remove it; what was linked stays. Again: nothing happens."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                self.path.unlink(missing_ok=True)


class BatchBytes(Protocol):
    """Where the bytes of batches are kept; every method blocks."""

    def draft(self) -> Draft:
        """Begin a file."""
        ...

    def keep(self, batch_id: str, draft: Draft) -> None:
        """Make the draft the batch's file, if it has none; durable when it returns."""
        ...

    def path(self, batch_id: str) -> Path | None:
        """The batch's file, or None."""
        ...

    def platform_id(self, batch_id: str) -> str | None:
        """The provider's id that was stored with it by somebody else, or None."""
        ...

    def discard(self, batch_id: str) -> None:
        """Forget a batch's file, where it is ours to forget."""
        ...


@attrs.frozen
class WriteOnceFiles:
    """A directory of files that are written once, whole or not at all.

    Args:
        directory: made, with mode 0700, when the first file is.
    """

    directory: Path

    def draft(self) -> Draft:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Draft(self.directory)

    def keep(self, batch_id: str, draft: Draft) -> None:
        self.link(draft, f"{key_of(batch_id)}.jsonl")

    def link(self, draft: Draft, name: str) -> Path:
        """Give the draft its name; what has the name already stays."""
        draft.seal()
        target = self.directory / name
        with contextlib.suppress(FileExistsError):
            os.link(draft.path, target)
        self._sync()
        return target

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def path(self, batch_id: str) -> Path | None:
        path = self.directory / f"{key_of(batch_id)}.jsonl"
        return path if path.is_file() else None

    def platform_id(self, batch_id: str) -> str | None:  # noqa: ARG002 - nobody else stores here
        return None

    def discard(self, batch_id: str) -> None:
        (self.directory / f"{key_of(batch_id)}.jsonl").unlink(missing_ok=True)

    def raw_rows(self, attempt_id: str) -> Path:
        """The provider's rows of one attempt, as they came."""
        return self.directory / f"{attempt_id}.raw.jsonl"

    def rows(self, key: str) -> Path:
        """One row for each request of a batch, all attempts together."""
        return self.directory / f"{key}.rows.jsonl"


def read_slice(path: Path, offset: int, count: int) -> tuple[list[bytes], int]:
    """Up to `count` lines, newlines cut off, from a byte offset, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = list(islice(file, count))
    return [line.rstrip(b"\n") for line in lines], offset + sum(map(len, lines))


class StoreLock:
    """An exclusive lock on a file, which the system gives back when the process dies.

    Args:
        path: of the lock file; it is made, and stays.
        remedy: how to get out of the way, for the error.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self._path = path
        self._remedy = remedy
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreInUse: somebody has it; the message names the process and the remedy.
        """
        import fcntl  # only POSIX has it, and only an entered handler needs it

        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        file = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = file.read().strip() or "unknown"
            file.close()
            raise StoreInUse(
                f"process {owner} has entered the store {str(self._path.with_suffix(''))!r}; "
                f"{self._remedy}"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give it back. Again: nothing happens."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
