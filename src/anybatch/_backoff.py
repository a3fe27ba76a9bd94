"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random

import attrs

DEFECTS = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError)
"""What says that a program is wrong: trying again would only repeat it."""


@attrs.define
class Backoff:
    """Seconds between tries: 1 doubling to 60, with jitter, so that many do not try in step."""

    first: float = 1.0
    longest: float = 60.0
    tries: int = 0

    def next(self) -> float:
        """The pause before the next try; each is up to twice the last."""
        pause = min(self.longest, self.first * 2.0 ** min(self.tries, 16))
        self.tries += 1
        return pause * random.uniform(0.75, 1.0)
