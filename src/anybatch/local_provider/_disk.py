"""Blocking calls to the file system that the store makes, in a worker thread where they sync."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import IO, Any

# Windows has no flock: two providers in one directory go unnoticed there.
_fcntl: Any = import_module("fcntl") if os.name == "posix" else None


def write_safely(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there, even after a loss of power."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def adopt(temporary: Path, path: Path) -> None:
    """Move a finished file to its place, its bytes on disk first."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory as safe as the files; where that can be asked for."""
    if os.name != "posix":  # pragma: no cover - Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> IO[bytes]:
    """Take the lock of a directory and return the open file that holds it, even through a kill.

    Raises:
        RuntimeError: if another provider has it.
    """
    file = path.open("ab")
    try:
        if _fcntl is not None:  # pragma: no branch - but on Windows
            _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RuntimeError(
            f"another local provider uses {path.parent}; end it, or name another directory"
        ) from None
    return file
