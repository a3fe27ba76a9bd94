"""OUTPUT.anybatch/: what a run must remember to go on after a kill."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import msgspec

from ._errors import UsageError
from ._output import append
from ._recipe import DIGEST_SIZE, Line

MADE_BY = 1
"""The version of the directory's format."""


class _Run(msgspec.Struct, frozen=True):
    id: str
    provider: str
    base_url: str | None
    version: int = MADE_BY


class RunDirectory:
    """The directory beside OUTPUT, locked against a second run.

    Args:
        output: OUTPUT; the directory is named after it.
        provider, base_url: where batches go; a run that was begun elsewhere is not gone on with.

    Attributes:
        path: the directory.
        run_id: drawn when the directory is made; custom ids begin with it.
        lines: the digests of the lines that were read, ever.

    Raises:
        UsageError: another process has it, it is another provider's, or it cannot be written.
    """

    def __init__(self, output: Path, provider: str, base_url: str | None) -> None:
        self.path = output.with_name(output.name + ".anybatch")
        self._output = output
        try:
            self._open(_Run(secrets.token_hex(8), provider, base_url))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error

    def _open(self, run: _Run) -> None:
        file = self.path / "run.json"
        if not file.exists() and self._output.exists() and self._output.stat().st_size:
            raise UsageError(
                f"{self._output} is there, and {self.path}, which says what belongs to it, is not; "
                "name another file with -o, or move this one away"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path / "lock")
        try:
            if not file.exists():
                _write_once(file, msgspec.json.encode(run))
            self.run_id = self._same_place(file, run).id
            self.lines = DigestFile(self.path / "lines")
        except BaseException:
            self._lock.close()
            raise

    def _same_place(self, file: Path, run: _Run) -> _Run:
        try:
            begun = msgspec.json.decode(file.read_bytes(), type=_Run)
        except msgspec.MsgspecError as error:
            raise UsageError(f"{file} is damaged: {error}") from error
        if (begun.provider, begun.base_url) != (run.provider, run.base_url):
            raise UsageError(
                f"{self._output} was begun with {_place(begun)}, not {_place(run)}; go on with "
                "that, or name another file with -o"
            )
        return begun

    def close(self) -> None:
        """Let go of the directory; again: nothing happens."""
        self.lines.close()
        self._lock.close()


class DigestFile:
    """A digest for each line of INPUT that was ever read, at the line's place.

    So an input that has grown is told from one that was changed. Written ahead of what is sent.
    """

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "a+")
        known = path.read_bytes()
        whole = len(known) - len(known) % DIGEST_SIZE
        self._file.truncate(whole)
        self._known = known[:whole]  # of earlier lives
        self.count = whole // DIGEST_SIZE
        """How many lines it knows."""

    def check(self, line: Line) -> None:
        """Compare a line with what it was.

        Raises:
            UsageError: it was another; the message names it.
        """
        start = (line.number - 1) * DIGEST_SIZE
        if self._known[start : start + DIGEST_SIZE] not in (b"", line.digest):
            raise UsageError(
                f"line {line.number} of the input, or what the options make of it, is not what it "
                "was when this output was begun; restore it, or name another file with -o"
            )

    def append(self, lines: Sequence[Line]) -> None:
        """Remember those of the lines that are new, on disk."""
        new = [line for line in lines if line.number > self.count]
        if new:
            append(self._file, b"".join(line.digest for line in new))
            self.count = new[-1].number

    def close(self) -> None:
        """Close the file; again: nothing happens."""
        self._file.close()


def _lock(path: Path) -> sqlite3.Connection:
    # SQLite's lock is the one file lock of the standard library that works everywhere and falls
    # with its process.
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise UsageError(
            f"another run has {path.parent} ({error}); let it end, or name another file with -o"
        ) from error
    return connection


def _write_once(path: Path, text: bytes) -> None:
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _place(run: _Run) -> str:
    return f"--provider {run.provider}" + (f" --base-url {run.base_url}" if run.base_url else "")
