"""A limit on each person's answers to forms: a wrong answer makes everybody else wait for the
form."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from mlplatform.rollouts.journal import approval_codes

MOST_ANSWERS: Final = 10
WITHIN_S: Final = approval_codes.VALID_S


class AnswerLimit:
    """Counts each person's answers within the validity of a code.

    Args:
        now_s: returns seconds of a clock that never goes back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # Each person has a key, so there are at most as many entries as keys.
        self._answers: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=MOST_ANSWERS)
        )

    def takes(self, person: str) -> bool:
        """Whether this person may answer now; counts the answer if so."""
        times_s, now_s = self._answers[person], self._now_s()
        if len(times_s) == MOST_ANSWERS and now_s - times_s[0] < WITHIN_S:
            return False
        times_s.append(now_s)
        return True
