"""Where requests wait: a queue in memory, and the base class for a queue of your own."""

from ..abc import RequestQueue as RequestQueue
from .memory import InMemoryRequestQueue as InMemoryRequestQueue

__all__ = ["InMemoryRequestQueue", "RequestQueue"]
