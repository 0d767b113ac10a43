"""A message that every request gives is logged once a second, and counted."""

from __future__ import annotations

import logging

from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter


def test_one_message_a_second_says_how_many_were_left_out() -> None:
    now_s = [0.0]
    rate_limit = RateLimitFilter(lambda: now_s[0])

    def said(text: str, *values: object) -> str | None:
        record = logging.LogRecord("a", logging.ERROR, "", 0, text, values, None)
        return record.getMessage() if rate_limit.filter(record) else None

    assert said("%s failed", 1) == "1 failed"
    assert said("another") == "another"
    assert [said("%s failed", n) for n in (2, 3)] == [None, None]
    now_s[0] = 1.0
    assert said("%s failed", 4) == "4 failed (2 more like it since the last)"
    now_s[0] = 2.0
    assert said("%s failed", 5) == "5 failed"
