"""Decisions beside one in time: the nearest on either side, by bounded reads; and its trace."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.artifacts.test_observability_configs import CONFIGS
from tests.unit.observing.page.queries.test_search import Log, log

from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.observing.page.decision_views import BesideRows
from mlplatform.observing.page.queries import decisions, traces
from mlplatform.observing.page.queries import neighbours as module
from mlplatform.observing.page.queries.neighbours import (
    EACH_SIDE,
    Neighbours,
    Place,
    neighbours,
    neighbours_of_unit,
)
from mlplatform.observing.page.rendering import render
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import DAY_MS, HOUR_MS

AT_MS = 100 * DAY_MS


def ids(found: Neighbours) -> tuple[list[int], list[int]]:
    return [row["seq"] for row in found.before], [row["seq"] for row in found.after]


def beside(found: Log, seq: int, event_ms: int) -> Neighbours:
    return neighbours(found.read, "fraud", Place(event_ms, "a", seq))


def test_the_nearest_on_either_side_are_shown_newest_first_without_the_decision_itself() -> None:
    found = log(*({"seq": n, "event_ms": AT_MS + 100 * n, "unit": n} for n in range(41)))
    near = beside(found, 20, AT_MS + 2_000)
    assert ids(near) == ([19, 18, 17, 16, 15], [25, 24, 23, 22, 21])
    assert near.within_ms == module.MIDDLE_MS
    assert len(found.queries) == 1, "enough was found at once"


def test_decisions_of_one_moment_are_in_the_order_of_their_writer() -> None:
    found = log(*({"seq": n, "event_ms": AT_MS, "unit": n} for n in range(1, 5)))
    assert ids(beside(found, 2, AT_MS)) == ([1], [4, 3])


def test_a_quiet_model_is_read_further_until_an_hour() -> None:
    found = log(*({"seq": n, "event_ms": AT_MS + n * 10 * 60_000, "unit": n} for n in range(20)))
    near = beside(found, 10, AT_MS + 100 * 60_000)
    assert near.within_ms == HOUR_MS
    assert ids(near) == ([9, 8, 7, 6, 5], [15, 14, 13, 12, 11])
    alone = beside(log({"seq": 1, "event_ms": AT_MS, "unit": 1}), 1, AT_MS)
    assert (alone.found, alone.within_ms) == (False, HOUR_MS)


def test_a_customers_are_read_by_the_customer_over_two_days_of_a_quiet_model() -> None:
    rows = [{"seq": n, "event_ms": AT_MS + n * 5 * HOUR_MS, "unit": n % 2} for n in range(30)]
    found, place = log(*rows), Place(AT_MS + 50 * HOUR_MS, "a", 10)
    near = neighbours_of_unit(found.read, "fraud", place, 0, Neighbours((), (), HOUR_MS, 1))
    assert ids(near) == ([8, 6, 4, 2], [18, 16, 14, 12])
    assert [query.unit for query in found.queries] == [0]
    assert near.within_ms == module.OF_UNIT_MOST_MS


@pytest.mark.parametrize(
    ("records", "within_ms"),
    [
        (0, module.OF_UNIT_MOST_MS),
        (450, 60_000 * module.OF_UNIT_RECORDS // 450),
        (15_000, module.OF_UNIT_LEAST_MS),
    ],
)
def test_the_more_a_model_decides_the_shorter_a_customers_time_is(
    records: int, within_ms: int
) -> None:
    found = log({"seq": 1, "event_ms": AT_MS, "unit": 1})
    of_model = Neighbours((), (), 60_000, records)
    near = neighbours_of_unit(found.read, "fraud", Place(AT_MS, "a", 1), 1, of_model)
    assert (near.found, near.within_ms) == (False, within_ms)


def test_no_more_is_kept_than_each_side_holds_and_no_pseudonym_is_read() -> None:
    found = log(*({"seq": n, "event_ms": AT_MS + n, "unit": 7} for n in range(100)))
    near = beside(found, 50, AT_MS + 50)
    assert len(near.before) == len(near.after) == EACH_SIDE
    assert all("unit" not in row for row in (*near.before, *near.after))


@pytest.mark.parametrize(
    ("apart_ms", "within_ms", "reads", "near"),
    [
        (20, module.SHORT_MS, 2, ([49, 48, 47, 46, 45], [55, 54, 53, 52, 51])),
        (60_000 // 4, module.MIDDLE_MS, 2, ([49, 48, 47, 46], [54, 53, 52, 51])),
    ],
    ids=["the middle is crowded", "the long one is crowded"],
)
def test_time_that_holds_too_many_records_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    apart_ms: int,
    within_ms: int,
    reads: int,
    near: tuple[list[int], list[int]],
) -> None:
    monkeypatch.setattr(module, "MOST_OF_WINDOW", 22)
    found = log(*({"seq": n, "event_ms": AT_MS + n * apart_ms, "unit": n} for n in range(100)))
    seen = beside(found, 50, AT_MS + 50 * apart_ms)
    assert (seen.within_ms, len(found.queries), ids(seen)) == (within_ms, reads, near)
    assert all(query.limit == 22 for query in found.queries)


def test_each_neighbour_says_how_much_earlier_or_later_it_was() -> None:
    shared = {"decision": "review", "score": 0.5, "version": 2, "degraded_reason": None}
    rows = [
        {"decision_id": f"d{ms}", "event_ms": AT_MS + ms, **shared} for ms in (90_000, 0, -5000)
    ]
    found = Neighbours(before=tuple(rows[2:]), after=tuple(rows[:2]), within_ms=HOUR_MS)
    shown = BesideRows.of("Of the same customer", found, AT_MS, EARLIER, "/decisions?unit=7")
    assert [row.decision_id for row in shown.rows] == ["d90000", "d0", "d-5000"]
    apart = [duration_text(90) + " later", "at the same time", duration_text(5) + " earlier"]
    assert [row.apart for row in shown.rows] == apart
    page = render(
        "decision.html", here="", name="d1", shown=decisions.decision(()), reasons={}, why=None,
        beside=[shown], review="", trace_url=lambda record: "",
    )  # fmt: skip
    assert "Of the same customer, the nearest within" in page
    assert '<a href="/decisions?unit=7">Of the same customer: search further</a>' in page


def test_a_trace_leads_to_grafana_where_its_address_is_known() -> None:
    link = urlsplit(traces.trace_link("https://grafana.bank", "ab" * 16, 1_000_000))
    assert (link.scheme, link.netloc, link.path) == ("https", "grafana.bank", "/explore")
    (pane,) = json.loads(parse_qs(link.query)["panes"][0]).values()
    assert pane["queries"][0]["query"] == "ab" * 16
    assert pane["range"] == {"from": "700000", "to": "1300000"}
    assert traces.trace_link("", "ab" * 16, 1) == ""
    assert traces.trace_link("https://grafana.bank", None, 1) == ""


def test_grafana_knows_the_source_of_traces_by_that_name() -> None:
    sources = (CONFIGS / "grafana" / "datasources.yaml").read_text()
    assert f"uid: {traces.SOURCE}\n" in sources
