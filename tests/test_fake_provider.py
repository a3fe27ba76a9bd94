"""The provider that ships for tests keeps a provider's contract, on its bad days too."""

from __future__ import annotations

from pathlib import Path

import anyio
import orjson
import pytest

from anybatch._exceptions import OutcomeUnknown, ProviderError, Refused, RequestRejected
from anybatch._models import Limits
from anybatch.testing.provider import FakeProvider
from tests.batches import line

pytestmark = pytest.mark.anyio


async def bought(provider: FakeProvider, tmp_path: Path) -> str:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(line("r0") + b"\n" + line("r1") + b"\n")
    file_id = await provider.upload(path, "batch.jsonl")
    return provider.create(file_id, "/v1/chat/completions", "trace").id


def test_it_completes_texts_and_messages_and_wants_a_model() -> None:
    provider = FakeProvider()
    for partial in ("hi", [{"role": "user", "content": "hi"}]):
        request = provider.complete(partial, {"model": "m"})
        provider.check(request)
        assert request["body"]["messages"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(RequestRejected, match="model"):
        provider.check(provider.complete("hi", {}))
    for body in (None, {}, {"messages": "hi"}):
        with pytest.raises(RequestRejected, match="messages"):
            provider.check({"body": body})


def test_it_says_what_it_was_told_to_be() -> None:
    limits = Limits(requests=2)
    provider = FakeProvider(profile="p", limits=limits, account="a")
    assert (provider.profile, provider.limits, provider.account) == ("p", limits, "a")


async def test_a_batch_ends_so_many_seconds_after_the_first_look(tmp_path: Path) -> None:
    provider = FakeProvider(duration=100)
    batch_id = await bought(provider, tmp_path)
    await anyio.sleep(500)
    assert (await provider.status([batch_id, "?"]))[batch_id].status == "in_progress"
    await anyio.sleep(100)
    remote = (await provider.status([batch_id]))[batch_id]
    assert remote.status == "completed"
    rows = [orjson.loads(row) async for row in provider.results(remote)]
    assert [row["custom_id"] for row in rows] == ["r0", "r1"]


async def test_a_lost_reply_is_found_by_its_trace(tmp_path: Path) -> None:
    provider = FakeProvider()
    provider.fail("create", OutcomeUnknown("reset"), done=True)
    with pytest.raises(OutcomeUnknown):
        await bought(provider, tmp_path)
    [found] = await provider.find("trace", file_id="?", since=0)
    assert found.metadata == {"anybatch": "trace"}


async def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(Refused, match="no file"):
        FakeProvider().create("?", "/v1", "trace")


@pytest.mark.parametrize("done", [True, False])
async def test_every_call_can_fail_before_or_after_it_was_done(tmp_path: Path, done: bool) -> None:
    provider = FakeProvider()
    batch_id = await bought(provider, tmp_path)
    file_id = provider.batches[batch_id].file_id
    for name in ("upload", "status", "cancel", "find", "delete"):
        provider.fail(name, ProviderError(name, status=503), done=done)
    with pytest.raises(ProviderError, match="upload"):
        await provider.upload(tmp_path / "batch.jsonl", "again.jsonl")
    with pytest.raises(ProviderError, match="status"):
        await provider.status([batch_id])
    with pytest.raises(ProviderError, match="find"):
        await provider.find("trace", file_id=file_id, since=0)
    with pytest.raises(ProviderError, match="cancel"):
        await provider.cancel(batch_id)
    with pytest.raises(ProviderError, match="delete"):
        await provider.delete(file_id)
    assert len(provider.files) == (2 if done else 1)
    status = (await provider.status([batch_id]))[batch_id].status
    assert status == ("cancelled" if done else "in_progress")
    await provider.cancel(batch_id)
    await provider.delete(file_id)
    with pytest.raises(Refused, match="no file"):
        provider.create(file_id, "/v1", "trace")
