"""OpenAI's own SDK is served by the local provider."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import openai
import pytest

from anybatch.local_provider import CallFault, FaultPlan, LocalProvider
from tests.local_provider.client import chats, jsonl

# The SDK's asynchronous client goes over httpx, which runs on both event loops.
pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


@pytest.fixture
async def sdk(provider: LocalProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk_of(provider) as sdk:
        yield sdk


def sdk_of(provider: LocalProvider) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=provider.base_url, api_key="none", max_retries=0)


async def test_a_batch_from_upload_to_deletion(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(
        file=("input.jsonl", jsonl(chats(3))),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    assert file.expires_at == file.created_at + 3_600
    batch = await sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"anybatch": "trace"},
    )
    with anyio.fail_after(30):
        while batch.status != "completed":
            await anyio.sleep(0.01)
            batch = await sdk.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 3
    assert batch.metadata == {"anybatch": "trace"}
    assert batch.output_file_id is not None
    content = await sdk.files.content(batch.output_file_id)
    assert len(content.text.splitlines()) == 3
    assert (await sdk.files.delete(file.id)).deleted


async def test_its_pages_walk_through_all_batches_and_files(sdk: openai.AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("input.jsonl", jsonl(chats(1))), purpose="batch")
    made = [
        await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        for _ in range(5)
    ]
    listed = [batch.id async for batch in sdk.batches.list(limit=2)]
    assert listed == [batch.id for batch in reversed(made)]
    assert file.id in [one.id async for one in sdk.files.list(limit=1)]


async def test_its_errors_carry_our_codes(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="batch_none"):
        await sdk.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.batches.create(
            input_file_id="file-x",
            endpoint="/v1/videos",  # type: ignore[arg-type]
            completion_window="24h",
        )
    assert caught.value.param == "endpoint"


async def test_live_calls_of_all_four_kinds(
    sdk: openai.AsyncOpenAI, provider: LocalProvider
) -> None:
    chat = await sdk.chat.completions.create(
        model="m",
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "why?"}]},
        ],
    )
    assert chat.choices[0].message.content == "why?"
    assert chat.usage is not None
    assert chat.usage.total_tokens > 0
    response = await sdk.responses.create(model="m", input="why not?")
    assert response.output_text == "why not?"
    vectors = await sdk.embeddings.create(model="m", input=["a", "b"], dimensions=4)
    assert [len(one.embedding) for one in vectors.data] == [4, 4]
    moderation = await sdk.moderations.create(model="m", input=["a", "b"])
    assert [one.flagged for one in moderation.results] == [False, False]
    assert [model.id async for model in sdk.models.list()] == ["echo"]
    assert provider.statistics().live_requests == 4


async def test_streams_are_refused(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stream"):
        await sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )


async def test_its_retries_buy_again_what_was_accepted_and_not_answered() -> None:
    plan = FaultPlan(calls=(CallFault("batches.create", "accept_and_drop", times=2),))
    async with LocalProvider(faults=plan) as provider, sdk_of(provider) as sdk:
        retrying = sdk.with_options(max_retries=2)
        file = await sdk.files.create(file=("input.jsonl", jsonl(chats(1))), purpose="batch")
        await retrying.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert provider.statistics().batches_created == 3
