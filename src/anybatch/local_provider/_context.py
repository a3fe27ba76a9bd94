"""What all parts of one local provider share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup
from attrs import frozen

from ._drawing import Faults
from .engines import Engine
from .store import Store
from .validation import Limits


@frozen(kw_only=True, eq=False)
class Context:
    """The settings and the state of one local provider.

    Args:
        store: its disk.
        engine: answers the requests.
        faults: what shall go wrong.
        limits: what it takes.
        delay: seconds that a batch stays in each of `validating`, `in_progress`, `finalizing`.
        window: seconds after which a batch expires.
        shuffle: whether rows leave in another order than they came in.
    """

    store: Store
    engine: Engine
    faults: Faults
    limits: Limits
    delay: float
    window: float
    shuffle: bool


@asynccontextmanager
async def background_tasks() -> AsyncGenerator[TaskGroup]:
    """Open a task group whose tasks are cancelled when the body ends, however it ends.

    An error of the body comes out as it is, not in a group.
    """
    error: BaseException | None = None
    async with create_task_group() as group:
        try:
            yield group
        except get_cancelled_exc_class():
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as raised:  # noqa: BLE001 - raised below
            error = raised
        group.cancel_scope.cancel()
    if error is not None:
        raise error
