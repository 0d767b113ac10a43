"""The view of a model's inputs: what moved comes first, with its profile, and what was decided."""

from __future__ import annotations

import statistics
import time

from mlplatform.observing.page import inputs
from mlplatform.observing.page.rendering import render
from mlplatform.operations.traffic import input_windows
from mlplatform.operations.traffic.input_windows import InputHistory
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding, State
from rollout_world import fraud
from support.kept_windows import HOSTILE, MOVED, STILL, WORD, history


def incident(number: int, state: State, note: str = "too few labels") -> Incident:
    change = Change(1, number, state, 0, None, note)
    found = IncidentFinding("fraud", "drift", number, number, 1, {"reasons": ["moved"]})
    return Incident(f"fraud-drift-{number}", found, state, 0, None, 0, None, (change,))


def page(shown: inputs.InputsDetail | None, *found: Incident) -> str:
    rows = inputs.incident_rows(found, 0, trains=True)
    return render(
        "inputs.html", here="", model="fraud", shown=shown, incidents=rows, unwatched=["hour"],
        most_inputs=inputs.MOST_INPUTS, most_incidents=inputs.MOST_INCIDENTS,
    )  # fmt: skip


def test_what_moved_furthest_comes_first_beside_its_profile() -> None:
    shown = inputs.inputs_detail(history(5))
    assert shown is not None
    first, *others = shown.inputs
    assert first.values.name == MOVED
    assert (first.tone, {card.tone for card in others}) == ("bad", {"good", ""})
    assert first.verdict == "moved: PSI 2 (limit 0.2), by 4 standard deviations (limit 0.5)"
    assert first.values.note.startswith("80 % of the values lie in 12")
    assert "; the profile expects 8" in first.values.note
    assert first.values.spark is not None
    assert first.values.spark.band, "the profile's band is drawn"
    assert [line.name for line in first.values.spark.lines] == ["median", "10 %", "90 %"]
    assert first.missing is not None
    assert (first.missing.text, first.missing.note) == ("10 %", "profile: 0 %")
    assert len(first.rows) == 5


def test_inputs_that_no_check_watches_are_named() -> None:
    definition = fraud()
    left_out = inputs.unwatched(definition)
    assert left_out
    assert not {*left_out} & {*definition.drift.inputs}
    told = "1 input of fraud is not watched, as <code>drift.inputs</code> of model.yaml leaves it"
    assert told in page(inputs.inputs_detail(history(5)))


def test_what_never_misses_a_value_has_no_picture_of_it_and_a_category_no_quantiles() -> None:
    shown = inputs.inputs_detail(history(5))
    assert shown is not None
    by_name = {card.values.name: card for card in shown.inputs}
    assert by_name[STILL].missing is None
    assert by_name[WORD].values.text == "15 % of its limit"
    assert by_name["score"].verdict == "not judged in the newest window"


def test_missing_and_stale_shares_and_ages_are_of_the_newest_window() -> None:
    shown = inputs.inputs_detail(history(5))
    assert shown is not None
    stale, missing, ages = shown.metrics
    assert (stale.text, stale.note) == ("2.4 %", "50 of 2,050 decisions; a fault is more than 50 %")
    assert (missing.text, missing.note) == ("10 %", f"{MOVED} is missing most")
    assert ages.note.startswith("customer_stats ")
    assert [row.health for row in shown.windows[:2]] == ["drifted", "as the profile"]


def test_incidents_say_what_was_decided_and_those_that_wait_come_first() -> None:
    text = page(None, incident(3, "closed", "answered"), incident(1, "open", f"wait {HOSTILE}"))
    assert text.index("fraud-drift-1") < text.index("fraud-drift-3")
    assert "wait &lt;script&gt;" in text
    assert "A retrain starts by itself once enough labels" in text
    assert "mlplatform drift fraud" in text, "how the first windows are made"
    many = inputs.incident_rows([incident(n, "closed") for n in range(50)], 0, trains=True)
    assert [row.incident.found.opened_ms for row in many] == list(range(49, 29, -1))


def test_what_people_write_is_text() -> None:
    text = page(inputs.inputs_detail(history(2)))
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_of_many_inputs_a_bounded_number_is_drawn_and_the_page_says_what_is_left_out() -> None:
    """Five times as many inputs make a page that takes as long, by the median of turns."""
    details = {n: inputs.inputs_detail(history(input_windows.KEPT, inputs=n)) for n in (40, 200)}
    shown = details[200]
    assert shown is not None
    assert (len(shown.inputs), shown.hidden) == (inputs.MOST_INPUTS, 201 - inputs.MOST_INPUTS)
    took_s = {n: list[float]() for n in details}
    for _ in range(5):
        for n, detail in details.items():
            begun_s = time.thread_time()
            text = page(detail)
            took_s[n].append(time.thread_time() - begun_s)
    assert statistics.median(took_s[200]) < 1.5 * statistics.median(took_s[40])
    assert "161 more inputs are not shown" in text


def test_nothing_kept_is_no_detail() -> None:
    assert inputs.inputs_detail(InputHistory()) is None
