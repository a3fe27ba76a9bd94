"""Records of batches in one SQLite file: append-only stories, and an index of the rows."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import orjson

from .._batch_states import FINISHED, Entry, Event, Record, State, replay
from .._models import Accepted, Ranges
from .files import WriteOnceFiles, key_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, queue TEXT NOT NULL,
    interval TEXT NOT NULL, endpoint TEXT NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL,
    profile TEXT NOT NULL, time REAL NOT NULL, state TEXT NOT NULL, changed REAL NOT NULL,
    kept INTEGER NOT NULL DEFAULT 1);
CREATE INDEX IF NOT EXISTS batches_state ON batches (state);
CREATE TABLE IF NOT EXISTS members (
    queue TEXT NOT NULL, stop INTEGER NOT NULL, start INTEGER NOT NULL, batch TEXT NOT NULL,
    PRIMARY KEY (queue, stop, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS story (
    batch TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, event TEXT NOT NULL,
    detail BLOB NOT NULL, PRIMARY KEY (batch, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS row_index (
    custom_id TEXT NOT NULL, batch INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (custom_id, batch)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS row_index_batch ON row_index (batch);
"""
_HEADER = "id, key, queue, interval, endpoint, count, size, profile, time"
_FINISHED = tuple(state.value for state in FINISHED)


@attrs.frozen
class RowPlace:
    """Where the row of a request lies in its batch's file of rows. Bytes."""

    custom_id: str
    start: int
    size: int


class SQLiteBatchStore:
    """A handler's records in one SQLite file, the bytes beside it in `files/`.

    Accepted means on the disk: the file is written with `synchronous=FULL`. All methods block;
    they may be called from several threads. One handler at a time enters a store.

    Args:
        path: of the SQLite file; it is made, with mode 0600, its directory with mode 0700.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.files: WriteOnceFiles = WriteOnceFiles(self.path.parent / "files")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SQLiteBatchStore({str(self.path)!r})"

    def open(self) -> str:
        """Keep a connection open until `close`; returns the store's uid."""
        with self._lock:
            self._connection = self._connection or self._connect()
        return self.uid

    def close(self) -> None:
        """Close the connection. Again: nothing happens. A later call opens one for itself."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @property
    def uid(self) -> str:
        """64 random bits, drawn when the store was made; plans name it."""
        with self._session() as db:
            return str(_value(db, "SELECT value FROM store WHERE key = 'uid'"))

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made by us, so that it never exists with another mode; SQLite's own files take it over.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
            uid = secrets.token_hex(8)
            db.execute("INSERT OR IGNORE INTO store VALUES ('uid', ?), ('version', '1')", (uid,))
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _session(self) -> Generator[sqlite3.Connection]:
        """One transaction, on the open connection or on one of its own."""
        with self._lock:
            db = self._connection or self._connect()
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    # A full disk ends the transaction by itself.
                    if db.in_transaction:  # pragma: no branch
                        db.execute("ROLLBACK")
                    raise
            finally:
                if db is not self._connection:
                    db.close()

    def accept(self, record: Record, members: Ranges = ()) -> tuple[Accepted, Record | None]:
        """Create the record if there is none; never overwrites one.

        Returns:
            What became of it, and the record that stands (None on VOID and OVERLAP).
        """
        with self._session() as db:
            known = _record(db, record.id)
            if known is not None:
                void = known.state is State.VOID
                return (Accepted.VOID, None) if void else (Accepted.KNOWN, known)
            if any(_overlaps(db, record.queue, start, stop) for start, stop in members):
                return Accepted.OVERLAP, None
            _insert(db, record)
            db.executemany(
                "INSERT INTO members VALUES (?, ?, ?, ?)",
                [(record.queue, stop, start, record.id) for start, stop in members],
            )
        return Accepted.NEW, record

    def void(self, batch_id: str) -> bool:
        """Make sure that this id is never accepted; False where it has been already."""
        now = time.time()
        record = Record(batch_id, key_of(batch_id), "", "", "", 0, 0, "", now, State.VOID)
        with self._session() as db:
            known = _record(db, batch_id)
            if known is None:
                _insert(db, record)
        return known is None or known.state is State.VOID

    def append(
        self,
        record: Record,
        event: Event,
        detail: Mapping[str, Any] | None = None,
        rows: Iterable[RowPlace] = (),
    ) -> Record:
        """Write the next entry of a batch's story, if nobody else has; returns the new record.

        Raises:
            IllegalTransition: the entry cannot follow.
            sqlite3.IntegrityError: the story is longer than this record knows.
        """
        entry = Entry(event, time.time(), detail or {})
        after = record.after(entry)
        with self._session() as db:
            db.execute(
                "INSERT INTO story VALUES (?, ?, ?, ?, ?)",
                (record.id, after.length, entry.time, event.value, orjson.dumps(entry.detail)),
            )
            db.execute(
                "UPDATE batches SET state = ?, changed = ? WHERE id = ?",
                (after.state.value, entry.time, record.id),
            )
            number = _value(db, "SELECT number FROM batches WHERE id = ?", record.id)
            db.executemany(
                "INSERT OR IGNORE INTO row_index VALUES (?, ?, ?, ?)",
                ((row.custom_id, number, row.start, row.size) for row in rows),
            )
        return after

    def story(self, batch_id: str) -> list[Entry]:
        """What happened to a batch, oldest first."""
        with self._session() as db:
            return _story(db, batch_id)

    def record(self, batch_id: str) -> Record | None:
        """A batch's record, or None."""
        with self._session() as db:
            return _record(db, batch_id)

    def unfinished(self, profile: str) -> list[Record]:
        """Records of this profile that something still follows, oldest first."""
        query = "SELECT id FROM batches WHERE state NOT IN (?, ?) AND profile = ? ORDER BY number"
        with self._session() as db:
            ids = [row[0] for row in db.execute(query, (*_FINISHED, profile))]
            return _records(db, ids)

    def strangers(self, profile: str) -> int:
        """How many unfinished records have another profile."""
        query = "SELECT count(*) FROM batches WHERE state NOT IN (?, ?) AND profile != ?"
        with self._session() as db:
            return int(_value(db, query, *_FINISHED, profile))

    def counts(self, profile: str) -> dict[State, int]:
        """Batches of this profile by state."""
        query = "SELECT state, count(*) FROM batches WHERE profile = ? GROUP BY state"
        with self._session() as db:
            return {State(state): count for state, count in db.execute(query, (profile,))}

    def rows_kept(self) -> int:
        """Rows that `lookup` can find."""
        with self._session() as db:
            return int(_value(db, "SELECT count(*) FROM row_index"))

    def bytes_kept(self) -> int:
        """Bytes of the batch files that are kept."""
        with self._session() as db:
            return int(_value(db, "SELECT coalesce(sum(size), 0) FROM batches WHERE kept"))

    def lookup(self, custom_id: str) -> bytes | None:
        """The newest row of a request, or None."""
        query = (
            "SELECT b.key, r.start, r.size FROM row_index r JOIN batches b ON b.number = r.batch"
            " WHERE r.custom_id = ? ORDER BY b.number DESC LIMIT 1"
        )
        with self._session() as db:
            found = db.execute(query, (custom_id,)).fetchone()
        if found is None:
            return None
        key, start, size = found
        with self.files.rows(key).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def purge(self, before: float) -> list[Record]:
        """Forget the rows of batches done before then; returns them. Their ids stay known."""
        query = "SELECT number, id FROM batches WHERE state = ? AND kept AND changed < ?"
        with self._session() as db:
            old = db.execute(query, (State.DONE.value, before)).fetchall()
            db.executemany("DELETE FROM row_index WHERE batch = ?", [(n,) for n, _ in old])
            db.executemany("UPDATE batches SET kept = 0 WHERE number = ?", [(n,) for n, _ in old])
            records = _records(db, [batch_id for _, batch_id in old])
        for record in records:
            self.files.rows(record.key).unlink(missing_ok=True)
        return records


def _value(db: sqlite3.Connection, query: str, *parameters: object) -> Any:
    return db.execute(query, parameters).fetchone()[0]


def _insert(db: sqlite3.Connection, record: Record) -> None:
    db.execute(
        f"INSERT INTO batches ({_HEADER}, state, changed)"  # noqa: S608 - a constant
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.id,
            record.key,
            record.queue,
            record.interval,
            record.endpoint,
            record.count,
            record.size,
            record.profile,
            record.time,
            record.state.value,
            record.time,
        ),
    )


def _overlaps(db: sqlite3.Connection, queue: str, start: int, stop: int) -> bool:
    """Whether a record has members in `[start, stop)`; ranges on record never overlap."""
    query = "SELECT start FROM members WHERE queue = ? AND stop > ? ORDER BY stop LIMIT 1"
    found = db.execute(query, (queue, start)).fetchone()
    return found is not None and found[0] < stop


def _story(db: sqlite3.Connection, batch_id: str) -> list[Entry]:
    query = "SELECT event, time, detail FROM story WHERE batch = ? ORDER BY number"
    found = db.execute(query, (batch_id,))
    return [Entry(Event(event), when, orjson.loads(detail)) for event, when, detail in found]


def _record(db: sqlite3.Connection, batch_id: str) -> Record | None:
    query = f"SELECT {_HEADER}, state FROM batches WHERE id = ?"  # noqa: S608 - a constant
    found = db.execute(query, (batch_id,)).fetchone()
    if found is None:
        return None
    *header, state = found
    if state == State.VOID.value:
        return attrs.evolve(Record(*header), state=State.VOID)
    return replay(Record(*header), _story(db, batch_id))


def _records(db: sqlite3.Connection, ids: Iterable[str]) -> list[Record]:
    found = (_record(db, batch_id) for batch_id in ids)
    return [record for record in found if record is not None]
