"""A test that passes two hours in milliseconds, on asyncio and on Trio."""

import anyio
import pytest

from anybatch import BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.providers import OpenAI
from anybatch.testing.clocks import virtual_asyncio, virtual_trio

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[virtual_asyncio, virtual_trio])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param()  # a new clock for each test


async def test_a_request_that_nobody_waits_for_leaves_after_two_hours() -> None:
    async def note(requests: list[str]) -> list[str]:
        times.append(anyio.current_time())
        return requests

    times: list[float] = []
    async with BatchDispatcher(note, queue_threshold=50_000, time_threshold=7_200) as d:
        start = anyio.current_time()
        await (await d.submit("patience"))
    assert times == [pytest.approx(start + 7_200)]


async def test_answers_come_back_without_a_socket(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ANYBATCH_HOME", str(tmp_path))
    async with LocalProvider("echo", port=None, delay=3_600) as local:  # an hour in each status
        provider = OpenAI(
            base_url=local.base_url,
            api_key="none",
            transport=local.transport,
            create_transport=local.transport,
        )
        handler = BatchHandler(batch_type=provider)
        async with BatchDispatcher(handler, request_kwargs={"model": "gpt-4o-mini"}) as d:
            assert (await d.ask("Are you there?")).text == "Are you there?"
        assert not local.statistics().bought_twice
