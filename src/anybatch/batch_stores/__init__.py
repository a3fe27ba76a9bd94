"""Where a handler keeps its batches: records, bytes, rows."""

from .sqlite import SQLiteBatchStore as SQLiteBatchStore

__all__ = ["SQLiteBatchStore"]
