"""What a type checker makes of the public API; mypy and pyright check this file, pytest runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, assert_type

import pytest

from anybatch import Answer, BatchDispatcher, BatchHandler, RawRequest, Receipt, RequestFailed
from anybatch.providers import OpenAI

if TYPE_CHECKING:
    from anybatch._process import Answers

pytestmark = pytest.mark.anyio


async def shout(requests: list[str]) -> Sequence[int | Exception]:
    return [len(request) for request in requests]


async def test_a_function_types_requests_and_answers() -> None:
    async with BatchDispatcher(shout) as d:
        assert_type(d, BatchDispatcher[str, int])
        receipt = await d.submit("a")
        _ = assert_type(receipt, Receipt[int])
        assert_type(await receipt, int)
        assert_type(await d.ask("a"), int)
        taken = d.submit_nowait("b")
        _ = assert_type(taken, Receipt[int])
        async for answer in d.process(["a"]):
            assert_type(answer, int | RequestFailed)


async def test_a_handler_types_answers() -> None:
    handler = BatchHandler(batch_type=OpenAI(base_url="http://127.0.0.1:9/v1", api_key="-"))
    d = BatchDispatcher(handler, request_kwargs={"model": "m"})
    several = BatchDispatcher([handler])
    if TYPE_CHECKING:
        assert_type(d, BatchDispatcher[Any | RawRequest, Answer])
        assert_type(several, BatchDispatcher[Any | RawRequest, Answer])
        assert_type(await d.ask("hello"), Answer)
        assert_type(d.process(["a"]), Answers[Answer])
