"""A queue or a handler that fails, and receipts asked out of turn."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from anybatch import (
    Answer,
    BatchDispatcher,
    BatchHandler,
    DispatcherCrashed,
    LeaseLost,
    ProviderError,
    Receipt,
    RequestAbandoned,
    RequestFailed,
)
from anybatch._models import Plan, PlanPart, Terms
from anybatch._receipts import ReceiptBook
from anybatch.request_queues import InMemoryRequestQueue
from anybatch.testing.provider import FakeProvider
from tests.support import Doubler

pytestmark = pytest.mark.anyio


class Moody(InMemoryRequestQueue):
    """A queue whose operations raise what they are told to, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, list[BaseException]] = {}

    def _mood(self, name: str) -> None:
        if self.errors.get(name):
            raise self.errors[name].pop()

    async def lease(self, terms: Terms) -> Any:
        self._mood("lease")
        return await super().lease(terms)

    async def ack(self, lease: Any) -> None:
        self._mood("ack")
        await super().ack(lease)

    async def release(self, lease: Any, delay: float = 0.0) -> None:
        self._mood("release")
        await super().release(lease, delay)


async def test_a_queue_that_does_not_answer_is_asked_again() -> None:
    queue = Moody()
    queue.errors["lease"] = [ConnectionError("gone")] * 3
    async with BatchDispatcher(Doubler(), queue) as d:
        assert await d.ask(2) == 4


async def test_a_defect_of_the_queue_ends_the_watcher() -> None:
    queue = Moody()
    queue.errors["lease"] = [NotImplementedError("lease")]
    with pytest.raises(DispatcherCrashed, match="NotImplementedError: lease"):
        async with BatchDispatcher(Doubler(), queue):
            await anyio.sleep_forever()


# asyncio itself lets an interrupt in a task out of its loop, past every `except`.
@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_an_interrupt_in_a_task_of_ours_comes_out_as_it_came(anyio_backend: Any) -> None:
    queue = Moody()
    queue.errors["ack"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        async with BatchDispatcher(Doubler(), queue) as d:
            await d.submit(1)
            await anyio.sleep_forever()


async def test_a_lease_that_was_lost_is_forgotten_and_a_release_that_fails_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = Moody()
    queue.errors["ack"] = [LeaseLost("somebody else has it")]
    with anyio.move_on_after(5):
        async with BatchDispatcher(Doubler(), queue) as d:
            await d.submit(1)
            await anyio.sleep_forever()
    assert "somebody else has it" in caplog.text
    queue.errors = {"ack": [OSError("full")], "release": [OSError("gone")]}
    with anyio.move_on_after(5):
        async with BatchDispatcher(Doubler(), InMemoryRequestQueue()) as other:
            await other.ask(1)
        async with BatchDispatcher(Doubler(), Moody()) as d:
            d.queue.errors = queue.errors  # type: ignore[attr-defined]
            await d.submit(1)
            await anyio.sleep_forever()
    assert "could not be released" in caplog.text


async def test_leaving_does_not_wait_for_a_held_interval(caplog: pytest.LogCaptureFixture) -> None:
    queue = InMemoryRequestQueue()
    queue.add_requests(["x"])
    lease = await queue.lease(Terms(count=5, position=1))
    assert lease is not None
    await queue.plan(lease, Plan("elsewhere", (PlanPart(lease.id, ((0, 1),)),)))
    await queue.release(lease)
    handler = BatchHandler(batch_type=FakeProvider())
    with caplog.at_level(logging.WARNING, "anybatch"):
        async with BatchDispatcher(handler, queue, request_kwargs={"model": "m"}) as d:
            receipt = await d.submit("y")
        assert (await receipt).text == "y"
    assert "elsewhere" in caplog.text


async def test_process_cannot_begin_once_the_dispatcher_was_left() -> None:
    async with BatchDispatcher(Doubler()) as d:
        answers = d.process([1])
    with pytest.raises(anyio.ClosedResourceError):
        async for _ in answers:
            raise AssertionError


async def test_process_of_a_dispatcher_that_is_left_raises_that_its_requests_were_abandoned() -> (
    None
):
    seen: list[Any] = []

    async def consume() -> None:
        seen.extend([answer async for answer in d.process(range(5))])

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(1):
            async with BatchDispatcher(Doubler(takes=100)) as d:
                tasks.start_soon(_expect, RequestAbandoned, consume)
                await anyio.sleep_forever()
    assert seen == []


async def test_process_may_be_closed() -> None:
    async with BatchDispatcher(Doubler()) as d:
        answers = d.process(range(100), ordered=True)
        assert await anext(answers) == 0
        await answers.aclose()


async def _expect(error: type[Exception], call: Any) -> None:
    with pytest.raises(error):
        await call()


async def test_idleness_keeps_a_providers_minimum() -> None:
    from anybatch._models import Limits

    provider = FakeProvider(limits=Limits(minimum=2))
    handler = BatchHandler(batch_type=provider)
    async with BatchDispatcher(handler, request_kwargs={"model": "m"}, idle_threshold=1) as d:
        first = await d.submit("a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.wait)
            await anyio.sleep(300)
            assert first.status == "queued"
            await d.submit("b")
        assert (await first).text == "a"


async def test_a_receipt_says_what_it_is() -> None:
    receipt: Receipt[int] = Receipt("a", None)
    assert repr(receipt) == "<Receipt 'a' queued>"
    with pytest.raises(RuntimeError, match="not settled"):
        receipt.outcome()
    assert receipt.cancel() is False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receipt.wait)
        await anyio.wait_all_tasks_blocked()
        receipt.answer(3)
    receipt.answer(4)
    receipt.abandon("too late")
    told: list[Any] = []
    receipt.subscribe(told.append)
    assert (await receipt, told, receipt.status) == (3, [receipt], "done")


async def test_a_book_holds_receipts_weakly() -> None:
    book = ReceiptBook()
    kept: Receipt[Any] = Receipt("kept", None)
    book.open_page("b", {"kept": kept, "dropped": Receipt("dropped", None)})
    assert book.get("b", "kept") is kept
    assert book.get("b", "dropped") is None
    assert book.get("c", "kept") is None
    assert (kept.status, list(book.open_receipts("b")), book.batches()) == (
        "dispatched",
        [kept],
        ["b"],
    )
    book.close_page("b")
    assert book.batches() == []


def test_an_answer_reads_every_form_of_text() -> None:
    chat = {"choices": [{"message": {"content": "a"}}], "usage": {"total_tokens": 1}}
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "b"}, {}]}}]}
    message = {"type": "message", "content": [{"type": "output_text", "text": "c"}]}
    responses = {"output": [{"type": "reasoning"}, message, message]}
    assert Answer(chat, custom_id="1").text == "a"
    assert Answer(chat, custom_id="1").usage == {"total_tokens": 1}
    assert Answer(parts, custom_id="2").text == "b"
    assert Answer(responses, custom_id="3").text == "cc"
    assert (Answer({}, custom_id="4").text, Answer({}, custom_id="4").usage) == ("", {})
    assert str(RequestFailed("words", code="code")) == "code: words"
    assert str(RequestFailed("words")) == "words"


async def test_whoever_waits_learns_at_once_that_the_upload_was_refused_for_its_key() -> None:
    provider = FakeProvider()
    provider.fail("upload", ProviderError("wrong key", status=401), times=3)
    handler = BatchHandler(batch_type=provider)
    async with BatchDispatcher(handler, request_kwargs={"model": "m"}, idle_threshold=1) as d:
        with pytest.raises(RequestAbandoned, match="wrong key"):
            await d.ask("x")
        await anyio.sleep(60)
        assert len(provider.created) == 1  # it went on by itself, and was bought once
