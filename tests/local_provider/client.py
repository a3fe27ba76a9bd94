"""A client of the Batch API, as the tests of the local provider use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
import httpx2
import orjson

from anybatch.local_provider import LocalProvider

Json = dict[str, Any]

ENDED = {"completed", "failed", "expired", "cancelled"}


def chat(custom_id: str, text: str = "hello", **body: Any) -> Json:
    return request(
        custom_id,
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": text}], **body},
    )


def request(custom_id: str, url: str, body: Json) -> Json:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def chats(count: int) -> list[Json]:
    return [chat(f"r{i}", f"question {i}") for i in range(count)]


def jsonl(requests: Iterable[Json]) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in requests)


def rows(content: bytes) -> list[Json]:
    return [orjson.loads(line) for line in content.splitlines()]


class Client(httpx2.AsyncClient):
    """The calls of the Batch API, one method each; they raise for a status."""

    async def upload(self, content: bytes | list[Json], name: str = "input.jsonl") -> Json:
        data = content if isinstance(content, bytes) else jsonl(content)
        answer = await self.post("files", data={"purpose": "batch"}, files={"file": (name, data)})
        return answer.raise_for_status().json()

    async def create(
        self, file_id: str, endpoint: str = "/v1/chat/completions", **more: Any
    ) -> Json:
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
        return (await self.post("batches", json=body)).raise_for_status().json()

    async def batch(self, content: bytes | list[Json], **more: Any) -> Json:
        return await self.create((await self.upload(content))["id"], **more)

    async def retrieve(self, batch_id: str) -> Json:
        return (await self.get(f"batches/{batch_id}")).raise_for_status().json()

    async def until(self, batch_id: str, *statuses: str) -> Json:
        """Poll until the batch is in one of the statuses; by default, until it has ended."""
        with anyio.fail_after(30):
            while True:  # over HTTP there is nothing to wait for but the answer to the next poll
                batch = await self.retrieve(batch_id)
                if batch["status"] in (statuses or ENDED):
                    return batch
                await anyio.sleep(0.01)

    async def ended(self, content: bytes | list[Json], **more: Any) -> Json:
        return await self.until((await self.batch(content, **more))["id"])

    async def content(self, file_id: str) -> bytes:
        return (await self.get(f"files/{file_id}/content")).raise_for_status().content

    async def output(self, batch: Json) -> list[Json]:
        file_id = batch["output_file_id"]
        return rows(await self.content(file_id)) if file_id else []

    async def errors(self, batch: Json) -> list[Json]:
        file_id = batch["error_file_id"]
        return rows(await self.content(file_id)) if file_id else []


def client_of(provider: LocalProvider, **options: Any) -> Client:
    return Client(base_url=provider.base_url, timeout=30, **options)
