"""Any number of connections that were ended are one refusal a minute."""

from __future__ import annotations

from pathlib import Path

from mlplatform.runtime.http.ended_connections import EVERY_S, EndedConnections
from mlplatform.runtime.telemetry.refusals import Refusals


def test_a_flood_is_told_once_a_minute_with_its_number(tmp_path: Path) -> None:
    refusals, now_s = Refusals(tmp_path), [0.0]
    ended = EndedConnections("page", refusals, clock_s=lambda: now_s[0])
    ended.store()
    for _ in range(70):
        ended.count("to make room", "uid 7")
    ended.store()
    for _ in range(30):
        ended.count("slow to ask", "uid 7")
    ended.count("too large", "uid 8")
    now_s[0] = EVERY_S - 1
    ended.store()
    assert [r.asked for r in refusals.since(0)] == ["connections: 70"]

    now_s[0] = EVERY_S
    ended.store()

    # Both may be of one millisecond, and lie in files of their own.
    first, second = sorted(refusals.since(0), key=lambda r: r.asked, reverse=True)
    assert (first.door, first.who, first.why) == ("page", "uid 7", "ended: 70 to make room")
    assert (second.who, second.asked) == ("unknown", "connections: 31")
    assert second.why == "ended: 30 slow to ask, 1 too large"


def test_without_a_place_to_keep_them_they_are_forgotten() -> None:
    ended = EndedConnections("predictor", None)
    ended.count("to make room", "uid 7")
    ended.store()
