"""What can be told of langbatch's objects without importing langbatch, which takes a second."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypeIs


def is_langbatch_batch(value: Any) -> TypeIs[type]:
    """Whether it is a langbatch `Batch` class, or a user's subclass of one."""
    return isinstance(value, type) and _descends(value, "langbatch.Batch", "Batch")


def is_langbatch_handler(value: object) -> bool:
    """Whether it is langbatch's own `BatchHandler`, or a user's subclass of it."""
    return _descends(type(value), "langbatch.BatchHandler", "BatchHandler")


def _descends(cls: type, module: str, name: str) -> bool:
    return any(base.__module__ == module and base.__name__ == name for base in cls.__mro__)
