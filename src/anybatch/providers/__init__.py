"""Providers: who answers batches. `OpenAI` is for every server that speaks OpenAI's Batch API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..abc import Provider
from .langbatch import is_langbatch_batch
from .openai import OpenAI as OpenAI

__all__ = ["OpenAI", "as_provider"]

OpenAI.__module__ = __name__


def as_provider(batch_type: Any, batch_kwargs: Mapping[str, Any] | None = None) -> Provider:
    """The provider that a handler's `batch_type` and `batch_kwargs` name.

    Args:
        batch_type: a provider, or one of langbatch's `Batch` classes.
        batch_kwargs: what the langbatch class is constructed with; a provider has its own.

    Raises:
        TypeError: neither of them, or a langbatch class that is not supported.
        ValueError: a provider with `batch_kwargs`, or a langbatch class without an API key.
    """
    if isinstance(batch_type, Provider):
        if batch_kwargs:
            raise ValueError(
                f"batch_kwargs {sorted(batch_kwargs)} beside a provider, which was constructed"
                " already; give them to its constructor"
            )
        return batch_type
    if is_langbatch_batch(batch_type):
        from .._langbatch import provider_for  # late: langbatch and openai take a second

        return provider_for(batch_type, batch_kwargs or {})
    if isinstance(batch_type, type) and issubclass(batch_type, Provider):
        raise TypeError(
            f"batch_type={batch_type.__name__} is a class; give an instance:"
            f" batch_type={batch_type.__name__}()"
        )
    raise TypeError(
        f"batch_type={batch_type!r} is no batch type; give a langbatch Batch class, such as"
        " langbatch.openai.OpenAIChatCompletionBatch, or a provider, such as"
        " anybatch.providers.OpenAI()"
    )
