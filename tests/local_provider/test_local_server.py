"""The local provider as a server: its address, its beginning, its end."""

from __future__ import annotations

import socket

import anyio
import httpx2
import pytest

from anybatch.local_provider import LocalProvider, serve
from anybatch.local_provider._hypercorn import Gate
from tests.local_provider.client import chats, client_of

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


async def test_serve_listens_when_it_has_started_and_until_it_is_cancelled() -> None:
    async with anyio.create_task_group() as group:
        provider = await group.start(serve, "echo")
        async with client_of(provider) as client:
            assert (await client.ended(chats(2)))["status"] == "completed"
        group.cancel_scope.cancel()
    async with client_of(provider) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("models")


async def test_a_port_that_is_taken_is_an_error_and_one_that_was_left_is_free() -> None:
    async with LocalProvider() as provider:
        port = int(provider.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with LocalProvider(port=port):
                pass
        async with client_of(provider) as client:
            await client.get("models")
    async with LocalProvider(port=port) as again:
        assert again.url == provider.url


async def test_it_can_listen_at_an_address_of_ipv6() -> None:
    async with LocalProvider(host="::1") as provider, client_of(provider) as client:
        assert provider.url.startswith("http://[::1]:")
        assert (await client.get("models")).status_code == 200


async def test_a_body_error_comes_out_as_it_is_with_connections_open() -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with LocalProvider() as provider:
            client = client_of(provider)
            await client.get("models")
            raise error
    assert caught.value is error
    await client.aclose()


async def test_many_clients_at_a_time_are_served() -> None:
    async def one() -> None:
        async with client_of(provider) as client:
            ends.append((await client.ended(chats(3)))["status"])

    ends: list[str] = []
    async with LocalProvider() as provider, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
    assert ends == ["completed"] * 20
    assert provider.statistics().batches_created == 20


async def test_leaving_closes_the_connections_that_clients_keep() -> None:
    async with LocalProvider() as provider:
        port = int(provider.url.rpartition(":")[2])
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        await stream.receive()
    with pytest.raises(anyio.EndOfStream), anyio.fail_after(5):
        while True:
            await stream.receive()
    await stream.aclose()


async def test_a_call_that_comes_after_the_end_is_not_served() -> None:
    async def app(*_: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise AssertionError("served")

    async def receive() -> dict[str, object]:
        raise AssertionError("read")

    async def send(message: object) -> None:
        sent.append(message)

    sent: list[object] = []
    gate = Gate(app)
    gate.close()
    await gate({"type": "http"}, receive, send)
    assert sent == [{"type": "http.response.start", "status": 100, "headers": []}]


def test_public_names_are_shown_under_the_package() -> None:
    assert repr(LocalProvider) == "<class 'anybatch.local_provider.LocalProvider'>"
    assert serve.__module__ == "anybatch.local_provider"


def test_the_port_is_bound_before_anything_is_served() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            anyio.run(serve_at, port)


async def serve_at(port: int) -> None:
    await serve("echo", port=port)
