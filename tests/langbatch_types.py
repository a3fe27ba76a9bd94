"""langbatch's classes, imported so that the test process stays as it was."""

from __future__ import annotations

from typing import Any

from anybatch._langbatch import load

_openai: Any = load("langbatch.openai")
Batch: Any = load("langbatch.Batch").Batch
BatchHandler: Any = load("langbatch.BatchHandler").BatchHandler
FileBatchQueue: Any = load("langbatch.batch_queues").FileBatchQueue
FileBatchStorage: Any = load("langbatch.batch_storages").FileBatchStorage
OpenAIBatch: Any = _openai.OpenAIBatch
OpenAIChatCompletionBatch: Any = _openai.OpenAIChatCompletionBatch
OpenAIEmbeddingBatch: Any = _openai.OpenAIEmbeddingBatch
