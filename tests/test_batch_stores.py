from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import attrs
import pytest

from anybatch._batch_states import Event, IllegalTransition, Record, State, remote_to_json
from anybatch._exceptions import StorageDamaged, StoreInUse
from anybatch._models import Accepted, RemoteBatch
from anybatch.batch_stores import SQLiteBatchStore
from anybatch.batch_stores.files import (
    Draft,
    StoreLock,
    WriteOnceFiles,
    is_own_id,
    key_of,
    read_slice,
)
from anybatch.batch_stores.langbatch import LiveList, StorageBytes
from anybatch.batch_stores.sqlite import RowPlace


@pytest.fixture
def store(tmp_path: Path) -> SQLiteBatchStore:
    return SQLiteBatchStore(tmp_path / "deep" / "store.db")


def record(batch_id: str = "q-1-0", *, profile: str = "fake") -> Record:
    return Record(batch_id, key_of(batch_id), "q", batch_id, "/v1", 2, 100, profile, 1.0)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def drafted(files: WriteOnceFiles, *lines: bytes) -> Draft:
    draft = files.draft()
    draft.write(lines)
    return draft


def done(store: SQLiteBatchStore, batch_id: str, rows: list[RowPlace]) -> Record:
    _, now = store.accept(record(batch_id))
    assert now is not None
    now = store.append(now, Event.CREATED, {"platform_id": "b"})
    remote = remote_to_json(RemoteBatch("b", "completed"))
    now = store.append(now, Event.ENDED, {"remote": remote})
    now = store.append(now, Event.COLLECTED, rows=rows)
    return store.append(now, Event.PROCESSED)


def write_rows(store: SQLiteBatchStore, key: str, *rows: bytes) -> None:
    draft = drafted(store.files, *rows)
    store.files.link(draft, store.files.rows(key).name)
    draft.discard()


class Test_records:
    def test_the_first_record_stands_whatever_comes_later(self, store: SQLiteBatchStore) -> None:
        assert store.accept(record(), ((0, 2),)) == (Accepted.NEW, record())
        other = attrs.evolve(record(), count=99)
        assert store.accept(other, ((0, 2),)) == (Accepted.KNOWN, record())

    @pytest.mark.parametrize("members", [((4, 6),), ((9, 12),), ((0, 100),), ((5, 6),)])
    def test_another_batch_with_the_same_members_overlaps(
        self, store: SQLiteBatchStore, members: Any
    ) -> None:
        store.accept(record(), ((5, 10),))
        assert store.accept(record("q-2-0"), members) == (Accepted.OVERLAP, None)
        assert store.record("q-2-0") is None

    def test_neighbours_and_other_queues_do_not_overlap(self, store: SQLiteBatchStore) -> None:
        store.accept(record(), ((5, 10),))
        assert store.accept(record("q-2-0"), ((0, 5), (10, 12)))[0] is Accepted.NEW
        other = attrs.evolve(record("p-1-0"), queue="p")
        assert store.accept(other, ((5, 10),))[0] is Accepted.NEW

    def test_a_voided_id_is_never_accepted_and_an_accepted_one_never_voided(
        self, store: SQLiteBatchStore
    ) -> None:
        assert store.void("q-1-0")
        assert store.void("q-1-0")
        assert store.accept(record()) == (Accepted.VOID, None)
        store.accept(record("q-2-0"))
        assert not store.void("q-2-0")

    def test_a_story_is_read_back_as_it_was_written(self, store: SQLiteBatchStore) -> None:
        _, now = store.accept(record())
        assert now is not None
        now = store.append(now, Event.UPLOAD)
        now = store.append(now, Event.UPLOADED, {"file_id": "f-1"})
        assert SQLiteBatchStore(store.path).record("q-1-0") == now
        assert [entry.event for entry in store.story("q-1-0")] == [Event.UPLOAD, Event.UPLOADED]

    def test_of_two_who_write_the_next_entry_one_is_refused(self, store: SQLiteBatchStore) -> None:
        _, now = store.accept(record())
        assert now is not None
        store.append(now, Event.UPLOAD)
        with pytest.raises(sqlite3.IntegrityError):
            store.append(now, Event.REFUSED, {"message": "late"})
        assert len(store.story("q-1-0")) == 1

    def test_what_cannot_follow_is_not_written(self, store: SQLiteBatchStore) -> None:
        with pytest.raises(IllegalTransition):
            store.append(record(), Event.PROCESSED)

    def test_only_what_something_follows_is_unfinished(self, store: SQLiteBatchStore) -> None:
        done(store, "q-1-0", [])
        store.accept(record("q-2-0"))
        store.accept(record("q-3-0", profile="other"))
        store.void("q-4-0")
        assert [found.id for found in store.unfinished("fake")] == ["q-2-0"]
        assert store.strangers("fake") == 1
        assert store.counts("fake") == {State.DONE: 1, State.ACCEPTED: 1}

    def test_the_newest_row_of_a_request_is_found(self, store: SQLiteBatchStore) -> None:
        for batch_id, row in (("q-1-0", b'{"a":1}'), ("q-2-0", b'{"a":22}')):
            write_rows(store, batch_id, b"first", row)
            done(store, batch_id, [RowPlace("r1", 6, len(row))])
        assert store.lookup("r1") == b'{"a":22}'
        assert store.lookup("r2") is None

    def test_purged_rows_are_gone_and_their_ids_known(self, store: SQLiteBatchStore) -> None:
        write_rows(store, "q-1-0", b"row")
        done(store, "q-1-0", [RowPlace("r1", 0, 3)])
        assert store.purge(before=0) == []
        assert (store.rows_kept(), store.bytes_kept()) == (1, 100)
        assert [found.id for found in store.purge(before=float("inf"))] == ["q-1-0"]
        assert (store.rows_kept(), store.bytes_kept()) == (0, 0)
        assert not store.files.rows("q-1-0").exists()
        assert store.accept(record())[0] is Accepted.KNOWN

    def test_a_store_keeps_the_uid_it_was_made_with(self, store: SQLiteBatchStore) -> None:
        uid = store.open()
        store.close()
        store.close()
        assert len(uid) == 16
        assert store.uid == uid == SQLiteBatchStore(store.path).uid

    def test_a_late_thread_can_write_after_the_store_was_closed(
        self, store: SQLiteBatchStore
    ) -> None:
        store.open()
        store.close()
        assert store.accept(record())[0] is Accepted.NEW

    def test_nobody_else_can_read_it(self, store: SQLiteBatchStore) -> None:
        store.accept(record())
        assert store.path.stat().st_mode & 0o777 == 0o600
        assert store.path.parent.stat().st_mode & 0o777 == 0o700
        draft = store.files.draft()
        assert draft.path.stat().st_mode & 0o777 == 0o600
        assert store.files.directory.stat().st_mode & 0o777 == 0o700
        draft.discard()

    def test_a_file_that_is_no_database_is_refused(self, store: SQLiteBatchStore) -> None:
        store.path.parent.mkdir()
        store.path.write_bytes(b"not a database, whatever it is called" * 100)
        with pytest.raises(sqlite3.DatabaseError):
            store.open()

    def test_it_says_where_it_is(self, store: SQLiteBatchStore) -> None:
        assert repr(store) == f"SQLiteBatchStore({str(store.path)!r})"


class Test_files:
    def test_what_has_the_name_already_stays(self, store: SQLiteBatchStore) -> None:
        files = store.files
        for text in (b"first", b"second"):
            draft = drafted(files, text)
            files.keep("q-1-0", draft)
            draft.discard()
            draft.discard()
        path = files.path("q-1-0")
        assert path is not None
        assert path.read_bytes() == b"first\n"
        assert names(files.directory) == ["q-1-0.jsonl"]

    def test_a_full_disk_leaves_no_torn_file(
        self, store: SQLiteBatchStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        draft = drafted(store.files, b"line")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.files.keep("q-1-0", draft)
        draft.discard()
        assert names(store.files.directory) == []

    def test_a_discarded_batch_has_no_file(self, store: SQLiteBatchStore) -> None:
        draft = drafted(store.files, b"line")
        store.files.keep("q-1-0", draft)
        draft.discard()
        store.files.discard("q-1-0")
        store.files.discard("q-1-0")
        assert store.files.path("q-1-0") is None

    @pytest.mark.parametrize(
        "batch_id", ["../../etc/passwd", "A", "a/b", "", "x" * 64, "a\0b", "é"]
    )
    def test_a_foreign_id_never_becomes_a_path(self, batch_id: str) -> None:
        assert not is_own_id(batch_id)
        key = key_of(batch_id)
        assert key.startswith("H-")
        assert set(key[2:]) <= set("0123456789abcdef")

    def test_slices_follow_each_other_to_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_bytes(b"a\nbb\nccc\n")
        assert read_slice(path, 0, 2) == ([b"a", b"bb"], 5)
        assert read_slice(path, 5, 2) == ([b"ccc"], 9)
        assert read_slice(path, 9, 2) == ([], 9)


class Test_locks:
    def test_a_second_owner_is_told_who_has_it_and_what_to_do(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "store.db.lock"
        first, second = StoreLock(path, "name it"), StoreLock(path, "name it")
        first.acquire()
        with pytest.raises(StoreInUse, match=rf"process {os.getpid()} .*store\.db'; name it"):
            second.acquire()
        first.release()
        first.release()
        second.acquire()
        second.release()


class Storage:
    """A langbatch `BatchStorage`, which copies what it is given."""

    def __init__(self, directory: Path, *, cut: int | None = None) -> None:
        self.directory = directory
        self.cut = cut
        self.saved: list[str] = []

    def save(self, id: str, data_file: Path, meta_data: dict[str, Any]) -> None:
        self.saved.append(id)
        (self.directory / f"{id}.jsonl").write_bytes(data_file.read_bytes()[: self.cut])
        (self.directory / f"{id}.json").write_text(json.dumps(meta_data))

    def load(self, id: str) -> tuple[Path, Path]:
        data = self.directory / f"{id}.jsonl"
        if not data.exists():
            raise RuntimeError("not found")
        metadata = self.directory / f"{id}.pkl"
        return data, metadata if metadata.exists() else self.directory / f"{id}.json"


class Test_langbatch_storage:
    def keep(self, kept: StorageBytes, *lines: bytes) -> None:
        draft = kept.draft()
        try:
            draft.write(lines)
            kept.keep("q-1-0", draft)
        finally:
            draft.discard()

    def test_what_is_there_whole_is_not_saved_again(
        self, tmp_path: Path, store: SQLiteBatchStore
    ) -> None:
        storage = Storage(tmp_path)
        kept = StorageBytes(storage, store.files)
        self.keep(kept, b"line")
        self.keep(kept, b"line")
        assert storage.saved == ["q-1-0"]
        assert kept.path("q-1-0") == tmp_path / "q-1-0.jsonl"
        assert kept.platform_id("q-1-0") is None
        assert names(store.files.directory) == []

    def test_what_is_there_short_is_damaged(self, tmp_path: Path, store: SQLiteBatchStore) -> None:
        storage = Storage(tmp_path)
        (tmp_path / "q-1-0.jsonl").write_bytes(b"li")
        with pytest.raises(StorageDamaged, match=r"2 bytes .* not the 5"):
            self.keep(StorageBytes(storage, store.files), b"line")
        assert storage.saved == []

    def test_what_was_saved_is_compared(self, tmp_path: Path, store: SQLiteBatchStore) -> None:
        kept = StorageBytes(Storage(tmp_path, cut=2), store.files)
        with pytest.raises(StorageDamaged, match="remove that batch"):
            self.keep(kept, b"line")

    def test_a_save_that_stores_nothing_is_noticed(
        self, tmp_path: Path, store: SQLiteBatchStore
    ) -> None:
        storage = Storage(tmp_path)
        storage.save = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(StorageDamaged, match="has 0 bytes"):
            self.keep(StorageBytes(storage, store.files), b"line")

    def test_a_broken_storage_is_not_an_empty_one(
        self, tmp_path: Path, store: SQLiteBatchStore
    ) -> None:
        storage = Storage(tmp_path)
        storage.load = lambda _: None.path  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            StorageBytes(storage, store.files).path("q-1-0")

    def test_the_id_that_langbatch_stored_is_read_and_a_pickle_is_not(
        self, tmp_path: Path, store: SQLiteBatchStore
    ) -> None:
        kept = StorageBytes(Storage(tmp_path), store.files)
        assert kept.platform_id("q-1-0") is None
        self.keep(kept, b"line")
        (tmp_path / "q-1-0.json").write_text('{"platform_batch_id": "b-7"}')
        assert kept.platform_id("q-1-0") == "b-7"
        (tmp_path / "q-1-0.pkl").write_bytes(b"cos\nsystem\n")
        with pytest.raises(StorageDamaged, match="pickle"):
            kept.platform_id("q-1-0")

    def test_the_users_storage_is_never_emptied(
        self, tmp_path: Path, store: SQLiteBatchStore
    ) -> None:
        kept = StorageBytes(Storage(tmp_path), store.files)
        self.keep(kept, b"line")
        kept.discard("q-1-0")
        assert kept.path("q-1-0") is not None


class Queue:
    def __init__(self, path: Path) -> None:
        self.file_path = str(path)
        self.lists: dict[str, list[str]] = {"pending": ["a", "b", "a"]}

    def save(self, queue: dict[str, list[str]]) -> None:
        self.lists = queue

    def load(self) -> dict[str, list[str]]:
        return self.lists


class Test_langbatch_queue:
    def test_ids_are_read_once_each(self, tmp_path: Path) -> None:
        assert LiveList(Queue(tmp_path / "q.json")).load() == (["a", "b"], [])

    def test_a_list_in_a_file_has_a_lock_beside_it(self, tmp_path: Path) -> None:
        first, second = (LiveList(Queue(tmp_path / "q.json")) for _ in range(2))
        first.acquire()
        with pytest.raises(StoreInUse, match=r"q\.json'; give batch_queue= another file"):
            second.acquire()
        first.release()

    def test_another_list_has_none(self) -> None:
        class Lists:
            def save(self, queue: dict[str, list[str]]) -> None: ...

            def load(self) -> dict[str, list[str]]:
                return {}

        listed = LiveList(Lists())
        listed.acquire()
        listed.release()
        assert listed.load() == ([], [])
