"""A local provider and its client, for tests that need nothing special of either."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from anybatch.local_provider import LocalProvider
from tests.local_provider.client import Client, client_of


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    async with LocalProvider() as provider:
        yield provider


@pytest.fixture
async def client(provider: LocalProvider) -> AsyncIterator[Client]:
    async with client_of(provider) as client:
        yield client
