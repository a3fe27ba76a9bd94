"""Importing langbatch, and leaving the process as it was. Nothing else imports it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final


def load(name: str) -> Any:
    """Import a module of langbatch, and leave the process as it was.

    Defect worked around: importing langbatch puts a handler on the root logger, sets its level,
    and makes a data directory beside site-packages, or fails where it may not.

    Raises:
        ImportError: langbatch is not installed.
    """
    if "langbatch" in sys.modules:
        return importlib.import_module(name)
    with _loading, _quiet_root_logger(), _private_data_directory():
        return importlib.import_module(name)


_loading: Final = threading.Lock()


@contextlib.contextmanager
def _quiet_root_logger() -> Generator[None]:
    """`basicConfig` does nothing where the root logger has a handler already."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextlib.contextmanager
def _private_data_directory() -> Generator[None]:
    if "LANGBATCH_DATA_PATH" in os.environ:
        yield
        return
    directory = tempfile.mkdtemp(prefix="anybatch-langbatch-")
    atexit.register(_remove_if_empty, Path(directory))
    os.environ["LANGBATCH_DATA_PATH"] = directory
    try:
        yield
    finally:
        del os.environ["LANGBATCH_DATA_PATH"]


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for inner in directory.iterdir():
            inner.rmdir()
        directory.rmdir()
