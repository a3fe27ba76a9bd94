"""The Files API of the local provider."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from anybatch.local_provider import Limits, LocalProvider
from tests.local_provider.client import Client, chats, client_of

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


async def refusal(client: Client, name: str, data: bytes, **fields: str) -> dict[str, Any]:
    form = {"purpose": "batch", **fields}
    answer = await client.post("files", data=form, files={"file": (name, data)})
    assert answer.status_code == 400
    return answer.json()["error"]


async def test_an_uploaded_file_can_be_looked_at_and_read(client: Client) -> None:
    data = b'{"a": 1}\r\n' * 50_000
    file = await client.upload(data, "questions.jsonl")
    assert file["object"] == "file"
    assert file["bytes"] == len(data)
    assert file["filename"] == "questions.jsonl"
    assert file["purpose"] == "batch"
    assert (await client.get(f"files/{file['id']}")).json() == file
    assert await client.content(file["id"]) == data


async def test_a_deleted_file_is_gone(client: Client, provider: LocalProvider) -> None:
    file = await client.upload(chats(1))
    answer = await client.delete(f"files/{file['id']}")
    assert answer.json() == {"id": file["id"], "object": "file", "deleted": True}
    for path in (f"files/{file['id']}", f"files/{file['id']}/content"):
        assert (await client.get(path)).status_code == 404
    assert (await client.delete(f"files/{file['id']}")).status_code == 404
    assert provider.statistics().deletes == 1


async def test_a_batch_does_not_mind_that_its_input_is_deleted() -> None:
    async with LocalProvider(delay=0.1) as provider, client_of(provider) as client:
        batch = await client.batch(chats(3))
        await client.delete(f"files/{batch['input_file_id']}")
        assert (await client.until(batch["id"]))["status"] == "completed"


async def test_only_jsonl_of_utf_8_is_taken(client: Client) -> None:
    assert ".jsonl" in (await refusal(client, "input.json", b"{}"))["message"]
    assert "UTF-8" in (await refusal(client, "input.jsonl", b'{"a": "\xff"}'))["message"]
    assert "UTF-8" in (await refusal(client, "input.jsonl", b'{"a": "\xe2\x82'))["message"]
    assert (await client.get("files")).json()["data"] == []


async def test_the_form_must_have_a_file_and_the_purpose_batch(client: Client) -> None:
    error = await refusal(client, "a.jsonl", b"{}", purpose="fine-tune")
    assert error["param"] == "purpose"
    answer = await client.post("files", files={"purpose": (None, "batch")})
    assert answer.json()["error"]["param"] == "file"
    answer = await client.post("files", files={"file": ("a.jsonl", b"{}")})
    assert answer.json()["error"]["param"] == "purpose"


async def test_a_body_that_is_no_form_is_refused(client: Client) -> None:
    answer = await client.post("files", json={"purpose": "batch"})
    assert answer.status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await client.post("files", content=b"--bwhat", headers=headers)
    assert answer.status_code == 400
    assert "form" in answer.json()["error"]["message"]


async def test_a_file_over_the_limit_is_refused_after_its_last_byte() -> None:
    limits = Limits(max_file_bytes=1_000_000)
    async with LocalProvider(limits=limits) as provider, client_of(provider) as client:
        error = await refusal(client, "a.jsonl", b"x" * 5_000_000)
        assert error["code"] == "file_too_large"
        assert "5000000" in error["message"]
        await client.upload(b"x" * 1_000_000)


async def test_files_and_bytes_have_quotas() -> None:
    limits = Limits(max_files=2, max_stored_bytes=100)
    async with LocalProvider(limits=limits) as provider, client_of(provider) as client:
        first = await client.upload(b"x" * 50)
        error = await refusal(client, "a.jsonl", b"x" * 51)
        assert error["code"] == "file_quota_exceeded"
        await client.upload(b"x")
        error = await refusal(client, "a.jsonl", b"x")
        assert error["code"] == "file_quota_exceeded"
        await client.delete(f"files/{first['id']}")
        await client.upload(b"x")


async def test_an_upload_may_ask_for_an_expiry(client: Client) -> None:
    form = {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }
    file = (await client.post("files", data=form, files={"file": ("a.jsonl", b"{}")})).json()
    assert file["expires_at"] == file["created_at"] + 3_600
    for seconds in ("3599", "2592001", "soon"):
        form = {**form, "expires_after[seconds]": seconds}
        answer = await client.post("files", data=form, files={"file": ("a.jsonl", b"{}")})
        assert answer.json()["error"]["param"] == "expires_after"


async def test_an_expired_file_is_gone(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    form = {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }
    file = (await client.post("files", data=form, files={"file": ("a.jsonl", b"{}")})).json()
    later = time.time() + 3_601
    monkeypatch.setattr(time, "time", lambda: later)
    assert (await client.get(f"files/{file['id']}")).status_code == 404
    assert (await client.get("files")).json()["data"] == []


async def test_lists_are_newest_first_and_have_cursors(client: Client) -> None:
    ids = [(await client.upload(chats(1)))["id"] for _ in range(5)]
    page = (await client.get("files", params={"limit": 2})).json()
    assert [file["id"] for file in page["data"]] == [ids[4], ids[3]]
    assert page["has_more"]
    assert (page["first_id"], page["last_id"]) == (ids[4], ids[3])
    page = (await client.get("files", params={"after": ids[2]})).json()
    assert [file["id"] for file in page["data"]] == [ids[1], ids[0]]
    assert not page["has_more"]
    page = (await client.get("files", params={"order": "asc", "limit": 1})).json()
    assert [file["id"] for file in page["data"]] == [ids[0]]


async def test_a_list_of_files_can_be_of_one_purpose(client: Client) -> None:
    batch = await client.ended(chats(1))
    page = (await client.get("files", params={"purpose": "batch_output"})).json()
    assert [file["id"] for file in page["data"]] == [batch["output_file_id"]]


@pytest.mark.parametrize(
    ("params", "status", "param"),
    [
        ({"limit": "0"}, 400, "limit"),
        ({"limit": "101"}, 400, "limit"),
        ({"limit": "many"}, 400, "limit"),
        ({"after": "batch_none"}, 404, "after"),
        ({"order": "sideways"}, 400, "order"),
    ],
)
async def test_a_list_refuses_what_it_cannot_show(
    client: Client, params: dict[str, str], status: int, param: str
) -> None:
    answer = await client.get("batches", params=params)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-3", b"0123"),
        ("bytes=8-", b"89"),
        ("bytes=8-99", b"89"),
        ("bytes=-3", b"789"),
        ("bytes=-99", b"0123456789"),
    ],
)
async def test_content_honours_a_range(client: Client, header: str, expected: bytes) -> None:
    file = await client.upload(b"0123456789")
    answer = await client.get(f"files/{file['id']}/content", headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == expected
    first = 10 - len(expected) if expected.endswith(b"9") else 0
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/10"


@pytest.mark.parametrize("header", ["bytes=-", "lines=0-3", "bytes=0-1,3-4", "nonsense"])
async def test_a_range_that_is_none_gives_the_whole(client: Client, header: str) -> None:
    file = await client.upload(b"0123456789")
    answer = await client.get(f"files/{file['id']}/content", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-4", "bytes=-0"])
async def test_a_range_without_bytes_is_refused(client: Client, header: str) -> None:
    file = await client.upload(b"0123456789")
    answer = await client.get(f"files/{file['id']}/content", headers={"range": header})
    assert answer.status_code == 416


async def test_an_empty_file_has_no_content(client: Client) -> None:
    assert await client.content((await client.upload(b""))["id"]) == b""


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody(
    client: Client, provider: LocalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    file = await client.upload(b"x" * 20_000_000)
    for _ in range(3):
        stream = await anyio.connect_tcp("127.0.0.1", int(provider.url.rpartition(":")[2]))
        call = f"GET /v1/files/{file['id']}/content HTTP/1.1\r\nhost: x\r\n\r\n"
        await stream.send(call.encode())
        await stream.receive()
        await stream.aclose()
    await anyio.sleep(0.2)
    assert (await client.get("models")).status_code == 200
    assert caplog.records == []


async def test_an_upload_that_is_broken_off_leaves_nothing(
    client: Client, provider: LocalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await anyio.connect_tcp("127.0.0.1", int(provider.url.rpartition(":")[2]))
    await stream.send(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n"
        b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    await stream.aclose()
    await anyio.sleep(0.1)
    assert (await client.get("files")).json()["data"] == []
    assert caplog.records == []
