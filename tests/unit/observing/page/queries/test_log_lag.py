"""How far each writer of the log is, and which of them a person should look at first."""

from __future__ import annotations

from mlplatform.decisions.records.port import Watermark
from mlplatform.observing.page.queries.log_lag import MOST_WRITERS, log_lag, unread
from mlplatform.observing.page.rendering import render

NOW_MS = 1_000_000


def mark(
    writer: str, event_ms: int | None, *, live: bool = True, seq: int = 9, **other: bool | int
) -> Watermark:
    return Watermark(writer, seq, event_ms, NOW_MS, live, **other)  # type: ignore[arg-type]


def test_a_live_writer_is_late_once_it_is_further_behind_than_the_alert_allows() -> None:
    found = log_lag([mark("a", NOW_MS - 60_000), mark("b", NOW_MS - 60_001)], {}, NOW_MS, 60)
    assert [(w.name, w.behind_ms, w.tone) for w in found.writers] == [
        ("b", 60_001, "bad"), ("a", 60_000, ""),
    ]  # fmt: skip


def test_nobody_waits_for_a_writer_that_has_ended_or_has_reached_nothing() -> None:
    found = log_lag([mark("gone", 1, live=False), mark("new", None)], {}, NOW_MS, 60)
    assert [(w.name, w.state, w.behind_ms, w.tone) for w in found.writers] == [
        ("new", "live", None, ""), ("gone", "ended", None, ""),
    ]  # fmt: skip


def test_a_writer_ahead_of_the_clock_is_not_behind() -> None:
    (only,) = log_lag([mark("a", NOW_MS + 5)], {}, NOW_MS, 60).writers
    assert (only.behind_ms, only.tone) == (0, "")


def test_what_waits_beside_a_log_comes_first_whoever_wrote_it() -> None:
    marks = [mark("a", NOW_MS), mark("far", NOW_MS, spilled=3), mark("mute", NOW_MS, unheard=True)]
    found = log_lag(marks, {"lost": 2_500_000, "a": 10}, NOW_MS, 60)
    states = {w.name: (w.state, w.spilled_bytes, w.spilled_elsewhere) for w in found.writers}
    assert states == {
        "a": ("spilled", 10, 0), "lost": ("spilled", 2_500_000, 0), "far": ("spilled", 0, 3),
        "mute": ("silent", 0, 0),
    }  # fmt: skip
    assert found.writers[-1].name == "mute"
    assert found.spilled_bytes == 2_500_010


def test_writers_that_ended_are_left_out_before_any_that_lives() -> None:
    ended = [mark(f"old-{number}", 1, live=False) for number in range(MOST_WRITERS + 4)]
    found = log_lag([*ended, mark("z", NOW_MS)], {}, NOW_MS, 60)
    assert found.writers[0].name == "z"
    assert (len(found.writers), found.left_out) == (MOST_WRITERS, 5)


def test_unread_records_are_those_after_the_position_of_each_writer() -> None:
    marks = [mark("a", 1, seq=10), mark("b", 1, seq=4), mark("new", 1, seq=3)]
    assert unread(marks, {"a": 7, "b": 4, "forgotten": 2}) == 6
    assert unread(marks, {"a": 99, "b": 99, "new": 99}) == 0, "of a log that was restored"


def test_the_page_says_how_far_each_is_and_what_waits() -> None:
    found = log_lag([mark("gateway-0", NOW_MS - 90_000)], {"gateway-0": 2_500_000}, NOW_MS, 60)
    text = page(found)
    assert ">1.5 min<" in text
    assert "2,500 kB wait beside the log" in text
    assert "docs/runbooks/LogSpilling.md" in text
    quiet = page(log_lag([mark("gateway-0", NOW_MS)], {}, NOW_MS, 60))
    assert "beside the log, because" not in quiet
    assert ">nothing<" in quiet
    assert "no decision log yet" in page(None)


def page(lags: object) -> str:
    return render(
        "system.html", here="system", concerns=(),
        alerts=None, disk="not asked", lags=lags, queues=[],
        schedules=None, prefect="", status=None,
    )  # fmt: skip
