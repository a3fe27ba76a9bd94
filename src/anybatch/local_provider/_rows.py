"""The rows of one batch as they are executed: an append-only log, one line a row.

It is the only truth about what was executed. A row is executed if and only if its line is here,
so a killed provider neither executes a row twice nor counts one that it did not execute: a last
line torn by the kill is cut off, and its row is executed then.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import orjson
from attrs import frozen

from ._slices import Breather
from .faults import RowKind
from .records import Counts, Usage

Place = Literal["output", "error", "lost", "twice"]

_LETTERS: dict[Place, bytes] = {"output": b"o", "error": b"e", "lost": b"x", "twice": b"t"}
_PLACES: dict[bytes, Place] = {letter: place for place, letter in _LETTERS.items()}


@frozen
class Row:
    """One executed row.

    Args:
        index: its position in the input file.
        place: where its line belongs.
        billed: whether it was answered, and so bought.
        custom_id: the request's.
        digest: of the request's body.
        tokens: that went in and came out.
        line: the line for the output or error file, without its end.
    """

    index: int
    place: Place
    billed: bool
    custom_id: str
    digest: str
    tokens: tuple[int, int]
    line: bytes

    def encoded(self) -> bytes:
        """Return the log's line. No field but the last can hold a tab, JSON text escapes it."""
        head = b"%d\t%b\t%d\t%b\t%d\t%d\t%b\t" % (
            self.index,
            _LETTERS[self.place],
            self.billed,
            self.digest.encode(),
            *self.tokens,
            orjson.dumps(self.custom_id),
        )
        return head + self.line + b"\n"

    @classmethod
    def decoded(cls, text: bytes) -> Row:
        """Return the row of one line of the log."""
        index, letter, billed, digest, asked, answered, custom_id, line = text.split(b"\t", 7)
        return cls(
            index=int(index),
            place=_PLACES[letter],
            billed=billed == b"1",
            custom_id=orjson.loads(custom_id),
            digest=digest.decode(),
            tokens=(int(asked), int(answered)),
            line=line.rstrip(b"\n"),
        )


class RowLog:
    """The log of one batch, open for appending and reading.

    Its calls are synchronous: each touches the page cache for microseconds, where a worker thread
    would cost tens of them.

    Args:
        path: of the log; made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._offsets = array("Q")
        self._places: list[Place] = []
        self._end = 0
        self._failed = 0
        self.done: set[int] = set()
        self.usage: Usage = Usage()

    async def recover(self) -> None:
        """Read what an earlier life left, and cut off a torn last line. Once, before all else."""
        breather = Breather()
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._note(Row.decoded(line), len(line))
            if breather.due():
                await breather.breathe()
        self._file.truncate(self._end)

    def _note(self, row: Row, length: int) -> None:
        self._offsets.append(self._end)
        self._places.append(row.place)
        self._end += length
        self.done.add(row.index)
        self.usage = self.usage.plus(*row.tokens)
        self._failed += row.place == "error"

    def append(self, row: Row) -> None:
        """Append a row; it is safe from a kill after `flush`."""
        text = row.encoded()
        self._file.write(text)
        self._note(row, len(text))

    def flush(self) -> None:
        """Hand what was appended to the operating system."""
        self._file.flush()

    def __len__(self) -> int:
        return len(self._offsets)

    def counts(self, total: int) -> Counts:
        """Return the batch's `request_counts`, `total` being the requests of its file."""
        return Counts(total=total, completed=len(self) - self._failed, failed=self._failed)

    def place(self, position: int) -> Place:
        """Return where the line of that row belongs."""
        return self._places[position]

    def read(self, position: int) -> Row:
        """Return the row that was executed as the `position`-th, from 0."""
        self._file.seek(self._offsets[position])
        return Row.decoded(self._file.readline())

    def close(self) -> None:
        """Flush and close. Again: nothing happens."""
        self._file.close()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a log that nobody writes; a torn last line is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield Row.decoded(line)


def place_of(kind: RowKind | None) -> Place:
    """Return where the row of a fault of this kind belongs."""
    if kind in ("error", "zero"):
        return "error"
    if kind == "missing":
        return "lost"
    return "twice" if kind == "twice" else "output"
