"""The handler: what it is made of, entering and leaving, ways in, and what it tells."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from anyio import ClosedResourceError

from anybatch._batch_states import Event, Record, State
from anybatch._exceptions import (
    HandlerCrashed,
    RequestAbandoned,
    RequestFailed,
    StorageDamaged,
    StoreInUse,
    UnknownBatch,
)
from anybatch._handler import BatchHandler
from anybatch._models import Accepted, HandlerStatistics
from anybatch.abc import BatchHandlerLike
from anybatch.batch_stores import SQLiteBatchStore
from anybatch.testing.provider import FakeProvider
from tests.batches import (
    all_answered,
    default_store,
    handler_on,
    line,
    make_part,
    outcomes,
    until,
)

pytestmark = pytest.mark.anyio
SLOW = 1e6


class Lists:
    """langbatch's `BatchQueue`, in memory."""

    def __init__(self, **lists: list[str]) -> None:
        self.lists: dict[str, list[str]] = lists

    def save(self, queue: dict[str, list[str]]) -> None:
        self.lists = queue

    def load(self) -> dict[str, list[str]]:
        return self.lists


class Storage:
    """langbatch's `BatchStorage`, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def save(self, id: str, data_file: Path, meta_data: dict[str, Any]) -> None:
        (self.directory / f"{id}.jsonl").write_bytes(data_file.read_bytes())
        (self.directory / f"{id}.json").write_text(json.dumps(meta_data))

    def load(self, id: str) -> tuple[Path, Path]:
        if not (self.directory / f"{id}.jsonl").exists():
            raise RuntimeError(f"Batch with id {id} not found")
        return self.directory / f"{id}.jsonl", self.directory / f"{id}.json"

    def put(self, batch_id: str, *custom_ids: str, platform_id: str | None = None) -> None:
        lines = b"".join(line(custom_id) + b"\n" for custom_id in custom_ids)
        (self.directory / f"{batch_id}.jsonl").write_bytes(lines)
        metadata = {"platform_batch_id": platform_id}
        (self.directory / f"{batch_id}.json").write_text(json.dumps(metadata))


def stores_below(directory: Path) -> list[Path]:
    return list(directory.rglob("*.db"))


def record_of(batch_id: str) -> Record:
    return Record(batch_id, batch_id, "", "", "/v1/chat/completions", 1, 10, "fake", 1.0)


def put_bytes(home: Path, batch_id: str, content: bytes) -> None:
    files = default_store(home).files
    draft = files.draft()
    draft.write([content])
    files.keep(batch_id, draft)
    draft.discard()


class Test_construction:
    def test_the_batch_type_is_required(self) -> None:
        with pytest.raises(TypeError, match="batch_type is required"):
            BatchHandler(print)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"wait_time": 0}, ValueError),
            ({"wait_time": float("nan")}, ValueError),
            ({"wait_time": "60"}, TypeError),
            ({"wait_time": True}, TypeError),
            ({"name": "a/b"}, ValueError),
            ({"name": ".."}, ValueError),
            ({"name": ""}, ValueError),
            ({"max_active_batches": 0}, ValueError),
            ({"max_active_batches": 1.5}, TypeError),
            ({"max_enqueued_tokens": -1}, ValueError),
            ({"max_stored_bytes": 0}, ValueError),
            ({"max_batch_age": 0}, ValueError),
            ({"settle": -1}, ValueError),
            ({"lease_time": 0.5}, ValueError),
            ({"results_retention": -1}, ValueError),
            ({"on_exit": "flush"}, ValueError),
            ({"on_uncertain": "guess"}, ValueError),
            ({"batch_process_func": 7}, TypeError),
            ({"batch_queue": object()}, TypeError),
            ({"batch_storage": object()}, TypeError),
            ({"batch_kwargs": {"a": 1}}, ValueError),
        ],
    )
    def test_what_cannot_be_is_refused_at_once(
        self, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        named = "SQLiteBatchStore" if "batch_storage" in arguments else next(iter(arguments))
        with pytest.raises(error, match=named):
            handler_on(FakeProvider(), **arguments)

    def test_a_settle_that_may_buy_twice_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        handler_on(FakeProvider(), settle=10)
        assert "may be bought twice" in caplog.text

    def test_a_store_of_ours_keeps_the_list_itself(self, tmp_path: Path) -> None:
        store = SQLiteBatchStore(tmp_path / "s.db")
        with pytest.raises(ValueError, match="drop batch_queue"):
            handler_on(FakeProvider(), batch_storage=store, batch_queue=Lists())

    def test_names_and_order_are_langbatchs(self) -> None:
        provider = FakeProvider()
        handler = BatchHandler(print, provider, None, None, 3600, None)
        assert handler.batch_type is handler.provider is provider
        assert isinstance(handler, BatchHandlerLike)

    def test_before_it_is_entered_it_is_empty_and_says_so(self, anybatch_home: Path) -> None:
        handler = handler_on(FakeProvider())
        assert handler.statistics() == HandlerStatistics(batches={})
        assert handler.queues == {"pending": [], "processing": []}
        assert (handler.live_batches, handler.entered) == (0, False)
        assert repr(handler) == "<BatchHandler 'default' new>"
        with pytest.raises(RuntimeError, match="entered"):
            _ = handler.store_id
        with pytest.raises(RuntimeError, match="enter the handler first"):
            handler.room()
        assert not anybatch_home.exists()

    def test_only_a_handler_without_a_name_is_named(self) -> None:
        unnamed, named = handler_on(FakeProvider()), handler_on(FakeProvider(), name="mine")
        for handler in (unnamed, named):
            handler.name_default("default-2")
        assert (unnamed.name, named.name) == ("default-2", "mine")

    async def test_the_home_is_read_at_construction(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANYBATCH_HOME", str(tmp_path / "first"))
        handler = handler_on(FakeProvider(), name="mine")
        monkeypatch.setenv("ANYBATCH_HOME", str(tmp_path / "second"))
        async with handler:
            pass
        assert stores_below(tmp_path) == [tmp_path / "first/handlers/mine/store.db"]

    def test_without_a_home_it_is_the_users_state_directory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from anybatch._handler_settings import home

        monkeypatch.delenv("ANYBATCH_HOME")
        assert home().name == "anybatch"


class Test_entering:
    async def test_it_is_entered_once(self) -> None:
        handler = handler_on(FakeProvider())
        async with handler:
            with pytest.raises(RuntimeError):
                await handler.__aenter__()
            with pytest.raises(RuntimeError, match="entered"):
                await handler.run()
        with pytest.raises(RuntimeError, match="entered once"):
            await handler.__aenter__()

    async def test_of_two_tasks_that_enter_at_once_one_is_refused(self) -> None:
        handler, refused = handler_on(FakeProvider()), list[str]()

        async def enter() -> None:
            try:
                async with handler:
                    await anyio.sleep(1)
            except RuntimeError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            group.start_soon(enter)
        assert len(refused) == 1

    async def test_a_store_has_one_entered_handler(self) -> None:
        async with handler_on(FakeProvider()) as first:
            second = handler_on(FakeProvider())
            with pytest.raises(StoreInUse, match=rf"process {os.getpid()} .* name="):
                await second.__aenter__()
            async with handler_on(FakeProvider(), name="other") as other:
                assert other.store_id != first.store_id
        async with handler_on(FakeProvider()) as third:
            assert third.store_id == first.store_id

    async def test_after_leaving_it_is_closed(self) -> None:
        async with handler_on(FakeProvider()) as handler:
            assert handler.entered
        assert not handler.entered
        with pytest.raises(ClosedResourceError):
            await handler.accept(make_part())
        with pytest.raises(ClosedResourceError):
            handler.room()

    async def test_before_entering_nothing_is_accepted(self) -> None:
        with pytest.raises(RuntimeError, match="enter the handler first"):
            await handler_on(FakeProvider()).accept(make_part())

    async def test_run_enters_and_runs_until_cancelled(self) -> None:
        provider, part = FakeProvider(), make_part()
        async with anyio.create_task_group() as group:
            handler = await group.start(handler_on(provider).run)
            await handler.accept(part)
            assert (await part.receipts["r0"]).text == "hello r0"
            group.cancel_scope.cancel()
        assert not handler.entered

    async def test_the_provider_is_entered_and_left_with_it(self) -> None:
        class Provider(FakeProvider):
            async def __aenter__(self) -> Self:
                self.calls["enter"] += 1
                return self

            async def __aexit__(self, *exc_info: object) -> None:
                self.calls["exit"] += 1

        provider = Provider()
        async with handler_on(provider):
            assert (provider.calls["enter"], provider.calls["exit"]) == (1, 0)
        assert provider.calls["exit"] == 1


class Test_entered_by_a_dispatcher:
    async def test_it_is_entered_and_left_for_it(self) -> None:
        handler = handler_on(FakeProvider())
        async with handler.entered_for("dispatcher") as entered:
            assert entered is handler
            assert handler.entered
        assert not handler.entered

    async def test_one_that_the_user_entered_is_not_left(self) -> None:
        handler = handler_on(FakeProvider())
        async with handler:
            async with handler.entered_for("one"), handler.entered_for("two"):
                pass
            assert handler.entered

    async def test_another_dispatcher_is_told_what_to_do(self) -> None:
        handler = handler_on(FakeProvider())
        async with handler.entered_for("one"):
            with pytest.raises(RuntimeError, match="enter the handler yourself"):
                async with handler.entered_for("two"):
                    pass
            assert handler.entered

    async def test_run_then_just_waits(self) -> None:
        handler = handler_on(FakeProvider())
        async with anyio.create_task_group() as group:
            async with handler.entered_for("one"):
                await group.start(handler.run)
            await anyio.sleep(1)
            group.cancel_scope.cancel()

    async def test_a_run_that_came_first_is_the_users_entering(self) -> None:
        handler = handler_on(FakeProvider())
        async with anyio.create_task_group() as group:
            group.start_soon(handler.run)
            await until(lambda: handler.entered)
            async with handler.entered_for("one"):
                assert handler.room() is None
            assert handler.entered
            group.cancel_scope.cancel()

    async def test_who_waits_for_an_entering_that_fails_is_told(self) -> None:
        class Provider(FakeProvider):
            async def __aenter__(self) -> Self:
                await anyio.sleep(1)
                raise OSError(errno.ENETDOWN, "down")

        handler = handler_on(Provider())
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                await until(lambda: handler.entered)
                with pytest.raises(RuntimeError, match="could not be entered"):
                    await handler.run()

            group.start_soon(follow)
            with pytest.raises(OSError, match="down"):
                async with handler.entered_for("one"):
                    pass


class Test_leaving:
    async def test_it_waits_for_receipts_that_somebody_holds(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        part = make_part()
        async with handler_on(FakeProvider(duration=5000)) as handler:
            await handler.accept(part)
        assert {r.status for r in part.receipts.values()} == {"done"}
        assert "leaving waits for 1 batches: q-1-0" in caplog.text

    async def test_it_waits_for_the_function_of_a_batch_whose_results_are_in(self) -> None:
        called, part = list[str](), make_part()

        async def process(batch: Any) -> None:
            await anyio.sleep(1000)
            called.append(batch.id)

        async with handler_on(FakeProvider(), batch_process_func=process) as handler:
            await handler.accept(part)
            await part.receipts["r0"]
        assert called == ["q-1-0"]

    async def test_on_exit_leave_waits_for_nothing(self) -> None:
        part = make_part()
        start = anyio.current_time()
        async with handler_on(FakeProvider(duration=SLOW), on_exit="leave") as handler:
            await handler.accept(part)
        assert anyio.current_time() - start < 10
        with pytest.raises(RequestAbandoned, match="go on at the provider"):
            await part.receipts["r0"]

    @pytest.mark.parametrize("error", [ZeroDivisionError(), ExceptionGroup("g", [KeyError()])])
    async def test_an_error_in_the_body_comes_out_bare(self, error: Exception) -> None:
        part = make_part()
        with pytest.raises(type(error)) as caught:
            async with handler_on(FakeProvider(duration=SLOW)) as handler:
                await handler.accept(part)
                raise error
        assert caught.value is error
        with pytest.raises(RequestAbandoned):
            await part.receipts["r0"]

    async def test_an_interrupt_comes_out_as_it_came(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            async with handler_on(FakeProvider()):
                raise KeyboardInterrupt

    async def test_cancelled_it_stops_looking_and_the_next_one_goes_on(self) -> None:
        provider, part = FakeProvider(duration=1000), make_part()
        with anyio.move_on_after(100) as scope:
            async with handler_on(provider) as handler:
                await handler.accept(part)
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert part.receipts["r0"].status == "abandoned"
        async with handler_on(provider) as handler:
            assert await outcomes(handler) == all_answered()
        assert provider.created == ["q-1-0"]

    async def test_a_defect_in_a_task_of_ours_is_a_crash(self) -> None:
        provider, part = FakeProvider(), make_part()
        provider.fail("status", ZeroDivisionError("defect"))
        with pytest.raises(HandlerCrashed, match="defect") as caught:
            async with handler_on(provider) as handler:
                await handler.accept(part)
                await anyio.sleep_forever()
        assert pytest.RaisesGroup(ZeroDivisionError).matches(caught.value.__cause__)
        assert part.receipts["r0"].status == "abandoned"

    async def test_a_crash_takes_the_bodys_error_along(self) -> None:
        provider = FakeProvider()
        provider.fail("status", ZeroDivisionError())
        with pytest.raises(HandlerCrashed) as caught:
            async with handler_on(provider) as handler:
                await handler.accept(make_part())
                try:
                    await anyio.sleep_forever()
                finally:
                    raise KeyError("body")
        assert pytest.RaisesGroup(ZeroDivisionError, KeyError).matches(caught.value.__cause__)


class Test_accepting:
    async def test_a_part_is_new_once(self) -> None:
        provider = FakeProvider()
        async with handler_on(provider) as handler:
            assert await handler.accept(make_part()) is Accepted.NEW
            assert await handler.accept(make_part()) is Accepted.KNOWN
            assert await outcomes(handler) == all_answered()
        assert provider.created == ["q-1-0"]

    async def test_members_of_another_batch_overlap_and_leave_no_file(
        self, anybatch_home: Path
    ) -> None:
        async with handler_on(FakeProvider()) as handler:
            await handler.accept(make_part())
            other = make_part("q-2-0", 5, start=2)
            assert await handler.accept(other) is Accepted.OVERLAP
            assert other.receipts["r2"].status == "queued"
        assert default_store(anybatch_home).files.path("q-2-0") is None

    async def test_a_voided_id_is_not_accepted(self, anybatch_home: Path) -> None:
        async with handler_on(FakeProvider()) as handler:
            default_store(anybatch_home).void("q-1-0")
            assert await handler.accept(make_part()) is Accepted.VOID
            with pytest.raises(UnknownBatch):
                await outcomes(handler)

    async def test_an_id_that_is_not_ours_is_refused(self) -> None:
        async with handler_on(FakeProvider()) as handler:
            with pytest.raises(ValueError, match="a-z0-9-"):
                await handler.accept(make_part("../evil"))

    @pytest.mark.parametrize("call", ["write", "fsync"])
    async def test_a_full_disk_leaves_no_record_and_no_file(
        self, call: str, anybatch_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        async with handler_on(FakeProvider()) as handler:
            part = make_part()
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full)
                with pytest.raises(OSError, match="No space"):
                    await handler.accept(part)
            store = default_store(anybatch_home)
            assert store.record("q-1-0") is None
            assert list(store.files.directory.iterdir()) == []
            assert await handler.accept(part) is Accepted.NEW
            assert (await part.receipts["r0"]).text == "hello r0"

    async def test_a_record_that_the_disk_refuses_is_not_accepted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        async with handler_on(FakeProvider()) as handler:
            part = make_part()
            with monkeypatch.context() as patch:
                patch.setattr(SQLiteBatchStore, "accept", full)
                with pytest.raises(OSError, match="No space"):
                    await handler.accept(part)
            assert handler.statistics().batches == {}
            assert part.receipts["r0"].status == "queued"
            assert await handler.accept(part) is Accepted.NEW

    async def test_cancelled_while_its_bytes_are_written_nothing_was_accepted(
        self, anybatch_home: Path
    ) -> None:
        async def endless() -> AsyncIterator[Sequence[bytes]]:
            yield [line("r0")]
            await anyio.sleep_forever()

        async with handler_on(FakeProvider()) as handler:
            with anyio.move_on_after(1):
                await handler.accept(make_part(lines=endless))
            assert handler.live_batches == 0
        store = default_store(anybatch_home)
        assert store.record("q-1-0") is None
        assert list(store.files.directory.iterdir()) == []

    async def test_cancelled_while_its_record_is_written_it_is_in_and_lives(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accept, scope = SQLiteBatchStore.accept, anyio.CancelScope()

        def cancelling(*arguments: Any) -> Any:
            anyio.from_thread.run_sync(scope.cancel)
            return accept(*arguments)

        monkeypatch.setattr(SQLiteBatchStore, "accept", cancelling)
        part = make_part()
        async with handler_on(FakeProvider()) as handler:
            with scope:
                await handler.accept(part)
            assert (await part.receipts["r0"]).text == "hello r0"

    async def test_what_a_killed_life_left_half_written_is_removed(
        self, anybatch_home: Path
    ) -> None:
        files = default_store(anybatch_home).files
        files.draft().write([b"half"])
        async with handler_on(FakeProvider()):
            assert list(files.directory.iterdir()) == []


class Test_adding:
    async def test_a_batch_without_bytes_is_unknown_and_the_remedy_is_named(self) -> None:
        with pytest.raises(UnknownBatch, match=r"batch_storage=FileBatchStorage\(\)"):
            await handler_on(FakeProvider()).add_batch("b-1")

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"url": "/v1"}', b""])
    async def test_bytes_that_are_no_batch_are_damaged(
        self, content: bytes, anybatch_home: Path
    ) -> None:
        put_bytes(anybatch_home, "b-1", content)
        with pytest.raises(StorageDamaged, match="b-1"):
            await handler_on(FakeProvider()).add_batch("b-1")

    @pytest.mark.parametrize("batch_id", ["b-1", "../../Evil"])
    async def test_before_during_and_after_it_is_recorded_once(
        self, batch_id: str, anybatch_home: Path
    ) -> None:
        provider = FakeProvider()
        put_bytes(anybatch_home, batch_id, line("r0"))
        handler = handler_on(provider)
        await handler.add_batch(batch_id)
        async with handler:
            await handler.add_batch(batch_id)
            assert await outcomes(handler, batch_id) == {"r0": "hello r0"}
            await until(lambda: handler.statistics().batches == {"done": 1})
        await handler.add_batch(batch_id)
        assert len(provider.created) == 1

    async def test_added_while_entered_it_is_driven_and_counted(self, anybatch_home: Path) -> None:
        provider = FakeProvider()
        put_bytes(anybatch_home, "b-1", line("r0"))
        async with handler_on(provider) as handler:
            await handler.add_batch("b-1")
            assert sum(handler.statistics().batches.values()) == 1
            assert await outcomes(handler, "b-1") == {"r0": "hello r0"}

    async def test_added_while_it_is_being_entered_it_is_driven(self, anybatch_home: Path) -> None:
        put_bytes(anybatch_home, "b-1", line("r0"))
        handler = handler_on(FakeProvider())
        async with anyio.create_task_group() as group:
            group.start_soon(handler.run)
            await until(lambda: handler.entered)
            await handler.add_batch("b-1")
            assert await outcomes(handler, "b-1") == {"r0": "hello r0"}
            group.cancel_scope.cancel()

    async def test_added_after_leaving_the_next_handler_drives_it(
        self, anybatch_home: Path
    ) -> None:
        provider = FakeProvider()
        put_bytes(anybatch_home, "b-1", line("r0"))
        async with handler_on(provider) as handler:
            pass
        await handler.add_batch("b-1")
        async with handler_on(provider) as handler:
            assert await outcomes(handler, "b-1") == {"r0": "hello r0"}


class Test_telling:
    async def test_results_of_what_nobody_knows(self) -> None:
        async with handler_on(FakeProvider()) as handler:
            for call in (
                outcomes(handler, "b-9"),
                handler.cancel_batch("b-9"),
                handler.resolve("b-9", not_created=True),
            ):
                with pytest.raises(UnknownBatch, match="b-9"):
                    await call
            assert await handler.lookup("r0") is None

    async def test_results_and_look_ups_need_no_entered_handler(self) -> None:
        provider = FakeProvider()
        provider.row_errors = {"r1": ("x", "y")}
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            await outcomes(handler)
        later = handler_on(provider)
        assert await outcomes(later) == {**all_answered(), "r1": "x"}
        answer, failure = await later.lookup("r0"), await later.lookup("r1")
        assert answer == {"choices": answer["choices"]} if isinstance(answer, dict) else False
        assert isinstance(failure, RequestFailed)
        assert await later.lookup("r9") is None

    async def test_rows_are_dropped_when_they_are_as_old_as_they_are_kept(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider = FakeProvider()
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            await outcomes(handler)
            await until(lambda: handler.statistics().batches == {"done": 1})
            assert handler.statistics().rows_kept == 3
        async with handler_on(provider, results_retention=0) as handler:
            assert handler.statistics().rows_kept == 0
            with pytest.raises(UnknownBatch, match="not kept"):
                await outcomes(handler)
            assert await handler.accept(make_part()) is Accepted.KNOWN
        assert "results_retention" in caplog.text

    async def test_batches_of_another_type_stay_with_one_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = FakeProvider(profile="other", duration=SLOW)
        async with handler_on(other, on_exit="leave") as handler:
            await handler.accept(make_part())
        caplog.clear()
        provider = FakeProvider()
        async with handler_on(provider) as handler:
            await anyio.sleep(100)
            assert handler.live_batches == 0
        warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "1 batches" in warnings[0]
        assert "name=" in warnings[0]
        assert not provider.calls

    async def test_results_of_another_types_batch_are_not_waited_for(self) -> None:
        other = FakeProvider(profile="other", duration=SLOW)
        async with handler_on(other, on_exit="leave") as handler:
            await handler.accept(make_part())
        async with handler_on(FakeProvider()) as handler:
            with pytest.raises(RuntimeError, match="'other'"):
                await outcomes(handler)

    async def test_results_that_are_not_there_yet_need_an_entered_handler(self) -> None:
        provider = FakeProvider(duration=SLOW)
        async with handler_on(provider, on_exit="leave") as handler:
            await handler.accept(make_part())
        with pytest.raises(RuntimeError, match="enter the handler first"):
            await outcomes(handler_on(provider))
        with pytest.raises(ClosedResourceError):
            await outcomes(handler)

    async def test_results_of_a_batch_that_was_added_beside_us_are_waited_for(
        self, anybatch_home: Path
    ) -> None:
        provider, found = FakeProvider(), dict[str | None, str]()
        put_bytes(anybatch_home, "b-1", line("r0"))
        async with handler_on(provider) as handler, anyio.create_task_group() as group:

            async def ask() -> None:
                found.update(await outcomes(handler, "b-1"))

            default_store(anybatch_home).accept(record_of("b-1"))
            group.start_soon(ask)
            await anyio.sleep(10)
            await handler.accept(make_part())
            assert found == {}
            group.cancel_scope.cancel()

    async def test_old_rows_that_cannot_be_dropped_stay(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(SQLiteBatchStore, "purge", full)
        async with handler_on(FakeProvider()):
            pass
        assert "old rows could not be dropped" in caplog.text

    async def test_statistics_follow_a_batch(self) -> None:
        provider, seen = FakeProvider(), list[str]()
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            while handler.statistics().batches != {"done": 1}:  # noqa: ASYNC110 - each is seen
                seen += [s for s in handler.statistics().batches if s not in seen]
                assert sum(handler.statistics().batches.values()) == 1
                await anyio.sleep(0.001)
        assert "created" in seen


class Test_room:
    async def test_there_is_room_for_as_many_as_may_live(self) -> None:
        async with handler_on(FakeProvider(), max_active_batches=2) as handler:
            assert handler.room() == 2
            await handler.accept(make_part())
            await handler.accept(make_part("q-2-0", start=10))
            assert (handler.room(), handler.live_batches) == (0, 2)
            await handler.wait_room()
            assert handler.room() == 1
            await handler.wait_room()

    async def test_who_waits_when_the_handler_is_left_is_told(self) -> None:
        told = list[str]()

        async def expect(name: str, wait: Awaitable[object]) -> None:
            with pytest.raises(ClosedResourceError):
                await wait
            told.append(name)

        handler = handler_on(FakeProvider(duration=SLOW), max_active_batches=1, on_exit="leave")
        async with anyio.create_task_group() as group, handler:
            await handler.accept(make_part())
            group.start_soon(expect, "room", handler.wait_room())
            group.start_soon(expect, "results", outcomes(handler))
            await anyio.sleep(100)
            assert told == []
        assert sorted(told) == ["results", "room"]

    @pytest.mark.parametrize("bound", ["max_enqueued_tokens", "max_stored_bytes"])
    async def test_there_is_none_where_another_limit_is_reached(self, bound: str) -> None:
        arguments: dict[str, Any] = {bound: 50}
        async with handler_on(FakeProvider(duration=SLOW), on_exit="leave", **arguments) as handler:
            assert handler.room() is None
            await handler.accept(make_part())
            assert handler.room() == 0


class Test_langbatchs_halves:
    async def test_bytes_go_to_the_storage_and_live_ids_to_the_queue(
        self, tmp_path: Path, anybatch_home: Path
    ) -> None:
        storage, lists = Storage(tmp_path / "langbatch"), Lists()
        provider = FakeProvider(duration=100)
        handler = handler_on(provider, batch_storage=storage, batch_queue=lists)
        async with handler:
            await handler.accept(make_part())
            await until(lambda: lists.lists == {"pending": [], "processing": ["q-1-0"]})
            assert handler.queues == lists.lists
            assert await outcomes(handler) == all_answered()
        assert lists.lists == {"pending": [], "processing": []}
        assert storage.load("q-1-0")[0].name == "q-1-0.jsonl"
        assert default_store(anybatch_home).files.path("q-1-0") is None

    async def test_what_langbatch_was_at_is_taken_over_and_not_bought_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider, storage = FakeProvider(), Storage(tmp_path / "langbatch")
        source = tmp_path / "bought.jsonl"
        source.write_bytes(line("r1") + b"\n")
        bought = provider.create(await provider.upload(source, "x"), "/v1", "theirs")
        storage.put("pending-1", "r0")
        storage.put("bought-1", "r1", platform_id=bought.id)
        storage.put("unsure-1", "r2")
        lists = Lists(pending=["pending-1", "gone-1"], processing=["bought-1", "unsure-1"])
        await handler_on(provider, batch_storage=storage).add_batch("pending-1")
        async with handler_on(provider, batch_storage=storage, batch_queue=lists) as handler:
            assert await outcomes(handler, "pending-1") == {"r0": "hello r0"}
            assert await outcomes(handler, "bought-1") == {"r1": "hello r1"}
            assert handler.statistics().held == ("unsure-1",)
        assert provider.created == ["theirs", "pending-1"]
        assert "gone-1" in caplog.text

    async def test_a_batch_that_langbatch_saved_can_be_added(self, tmp_path: Path) -> None:
        storage = Storage(tmp_path / "langbatch")
        storage.put("0f3c", "r0")
        async with handler_on(FakeProvider(), batch_storage=storage) as handler:
            await handler.add_batch("0f3c")
            assert await outcomes(handler, "0f3c") == {"r0": "hello r0"}

    async def test_a_list_that_cannot_be_written_is_written_later(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Full(Lists):
            failures = 2

            def save(self, queue: dict[str, list[str]]) -> None:
                if self.failures:
                    self.failures -= 1
                    raise OSError(errno.ENOSPC, "full")
                super().save(queue)

        lists = Full()
        async with handler_on(FakeProvider(), batch_queue=lists) as handler:
            await handler.accept(make_part())
            assert await outcomes(handler) == all_answered()
        assert lists.lists == {"pending": [], "processing": []}
        assert "list of live batches" in caplog.text


async def test_a_store_of_ones_own_holds_everything(tmp_path: Path) -> None:
    store = SQLiteBatchStore(tmp_path / "mine" / "batches.db")
    async with handler_on(FakeProvider(), batch_storage=store) as handler:
        await handler.accept(make_part())
        assert await outcomes(handler) == all_answered()
        assert handler.store_id == store.uid
    events = [entry.event for entry in store.story("q-1-0")]
    assert events[:4] == [Event.UPLOAD, Event.UPLOADED, Event.CREATE, Event.CREATED]
    record = store.record("q-1-0")
    assert record is not None
    assert record.state in {State.COLLECTED, State.DONE}
    assert stores_below(tmp_path) == [store.path]
