"""The command `anybatch`, of the extra `anybatch[cli]`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("cyclopts", "rich", "starlette", "hypercorn")


def main() -> None:
    """Run the command that the process's arguments name, and exit with its status."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"anybatch: the command line needs {', '.join(missing)}: pip install 'anybatch[cli]'"
        )
    # Late: the modules behind it import what may be missing.
    from ._app import main as run_command

    sys.exit(run_command())
