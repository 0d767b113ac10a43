"""What the page draws: every mark lies in its picture, and a sentence says what it shows."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.observing.page.pictures import gates, measures, ramp
from mlplatform.observing.page.pictures.gates import GatePicture, gate_pictures
from mlplatform.observing.page.queries import rollouts
from mlplatform.observing.page.rendering import render, templates
from mlplatform.operations.actions import interim_analyses
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, StepHistory
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import Paused, Resumed, Transition
from mlplatform.rollouts.passes import plan_text
from mlplatform.rollouts.passes.summary import MARKS, TITLES, to_markdown
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.units import DAY_MS
from support.judged_rollout import JudgedRollout

NUMBERS = st.none() | st.floats(-1e9, 1e9) | st.sampled_from([float("nan"), float("inf")])
KEYS = (
    *("share", "low", "high", "limit", "stop", "proven", "band_low", "ratio", "limit_ratio"),
    *("tolerance_ratio", "challenger", "champion", "positives", "caught", "units"),
)
VERDICTS = ("HEALTHY", "UNHEALTHY", "INCONCLUSIVE")


@functools.cache
def world() -> tuple[JudgedRollout, tuple[Transition, ...]]:
    made = JudgedRollout()
    return made, tuple(made.facts)


def analysis(gate: Gate, event_ms: int = 1) -> InterimAnalysis:
    return InterimAnalysis(event_ms, gate.verdict, 5, (gate,))


def pictured(*found: Gate) -> GatePicture:
    return gate_pictures("s", [analysis(g, n) for n, g in enumerate(found)], None)[0]


def failures(verdict: Any, low: float, high: float, limit: float | None = 0.02) -> Gate:
    values = {"share": (low + high) / 2, "low": low, "high": high, "limit": limit, "stop": 0.005,
              "proven": low, "challenger": 0.04, "champion": 0.01}  # fmt: skip
    return Gate("failures", verdict, "the statistics", values)


VALUES = st.dictionaries(st.sampled_from(KEYS), NUMBERS)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(TITLES)),
    st.sampled_from(VERDICTS),
    st.lists(VALUES, min_size=1, max_size=3),
)
def test_every_mark_of_a_gate_lies_in_its_picture(
    name: str, verdict: Any, analyses: list[dict[str, Any]]
) -> None:
    drawn = pictured(*(Gate(name, verdict, "why", values) for values in analyses))
    assert drawn.sentence
    if (d := drawn.drawing) is not None:
        xs = [d.last[0]]
        ys = [*d.last[1:], *d.stops, *(t.at for t in d.ticks)]
        for x, y in re.findall(r"([-\d.e+]+),([-\d.e+]+)", f"{d.band} {d.line}"):
            xs.append(float(x))
            ys.append(float(y))
        assert all(0 <= x <= gates.WIDTH for x in xs)
        assert all(0 <= y <= gates.HEIGHT for y in ys)
        assert d.well is None or (d.well[1] >= -0.1 and 0 <= d.well[0] <= gates.HEIGHT)


def test_a_gate_is_told_in_the_first_sentence_of_its_reason() -> None:
    said = (
        "The challenger's alerts are 1.5 times the number expected (95 % certain). It raised alerts"
        " on 5 of 400. This step allows up to 2."
    )
    shown = pictured(Gate("alerts", "UNHEALTHY", said, {}))
    assert (shown.sentence, shown.reason) == (said.partition(" It")[0], said)
    assert pictured(Gate("log", "INCONCLUSIVE", "gateway-1 is behind", {})).sentence == (
        "Gateway-1 is behind."
    )


def test_a_segments_gate_has_the_picture_of_all_requests_gate() -> None:
    assert measures.measure("alerts of weekend", {}) is measures.measure("alerts", {}) is not None
    assert measures.measure("split", {}) is None
    of_all = failures("HEALTHY", -0.004, 0.004)
    alerts = Gate("alerts of weekend", "HEALTHY", "So it is. Allowed: 2.", of_all.values)
    shown = pictured(alerts)
    assert shown.title == "share of alerts, segment weekend"
    assert shown.drawing is not None
    macros: Any = templates().get_template("pictures.html").module
    page = macros.gate(shown)
    assert 'aria-labelledby="s-alerts-of-weekend-title s-alerts-of-weekend-description"' in page
    assert "<p>So it is. Allowed: 2.</p>" in page, "a reason is sentences already"


def test_what_nothing_waits_for_is_told_so() -> None:
    gate = {"verdict": "INCONCLUSIVE", "reason": "No verdict is possible yet."}
    told = {}
    for name, more in (("alerts", {}), ("alerts of weekend", {"holds": False})):
        evidence = {"verdict": "HEALTHY", "gates": {name: gate | more}}
        seen = interim_analyses.analysis_of(evidence, 1)
        assert seen is not None
        (shown,) = gate_pictures("s", [seen], None)
        told[name] = shown.mark
        (line,) = [x for x in to_markdown("r", evidence).splitlines() if x.startswith("- ?")]
        assert line.startswith(f"- {shown.mark}: **{shown.title}**.")
    assert told == {
        "alerts": "? inconclusive",
        "alerts of weekend": "? inconclusive; no step waits for it",
    }


def test_an_interval_narrows_from_look_to_look_towards_what_is_allowed() -> None:
    drawn = pictured(failures("INCONCLUSIVE", -0.02, 0.03), failures("HEALTHY", -0.004, 0.004))
    d = drawn.drawing
    assert d is not None
    assert d.well is not None
    assert d.well[0] <= d.last[3], "the interval's upper end lies in what is allowed"
    assert (d.shape, drawn.mark, drawn.analyses) == ("dot", "✔ healthy", 2)
    assert (
        "the interval of the first of 2 interim analyses was between -2 points and 3 points"
        in drawn.description
    )
    assert [(b.name, b.width, b.text) for b in drawn.bars] == [
        ("challenger", 100.0, "4 %"), ("champion", 25.0, "1 %"),
    ]  # fmt: skip


def test_an_interval_far_beyond_the_limits_is_cut_and_leaves_the_limits_apart() -> None:
    d = pictured(failures("INCONCLUSIVE", 0.0, 0.9)).drawing
    assert d is not None
    assert d.cut == ("above",)
    assert d.outside == (
        "The newest value is 45 points. Its interval lies between 0 points and 90 points, and the"
        " picture shows -0.64 points to 8.6 points.",
    )
    assert d.well is not None
    assert d.zero is not None
    assert d.zero - d.well[0] > gates.LINE_APART


def test_an_axis_has_two_numbers_or_more_so_that_a_value_can_be_read() -> None:
    values = {"share": -0.52, "low": -0.55, "high": -0.5, "tolerance_ratio": 0.1}
    d = pictured(Gate("latency_p50", "HEALTHY", "why", values)).drawing
    assert d is not None
    assert [tick.text for tick in d.ticks] == ["0 points", "-59 points"]


def test_the_made_up_rollout_shows_the_limit_of_answers_in_time_as_a_true_one_does() -> None:
    made, _ = world()
    shown = [g for h in made.histories for g in gate_pictures("s", h.analyses, None)]
    own = [g for g in shown if g.axis.startswith("requests not answered in time")]
    assert own
    assert all(g.drawing is not None and g.drawing.stops for g in own)


def test_what_lies_beyond_a_picture_is_told_beside_it_with_its_numbers() -> None:
    """A challenger without alerts: 100 % fewer than expected, at a limit of 20 %."""
    values = {"share": -1.0, "low": -1.0, "high": -0.9, "limit": 0.1, "stop": 0.2, "proven": 0.9}
    shown = pictured(Gate("alerts", "UNHEALTHY", "There are none.", values))
    d = shown.drawing
    assert d is not None
    assert d.cut == ("below",)
    macros: Any = templates().get_template("pictures.html").module
    page = macros.gate(shown)
    open_part, _, _ = page.partition("<details>")
    told = (
        "The newest value is -100 %. Its interval lies between -100 % and -90 %, and the picture "
    )
    assert f'<p class="soft">{told}shows ' in open_part
    assert 'class="onward"' in page
    wide = pictured(Gate("alerts", "INCONCLUSIVE", "Few.", values | {"low": -3.8, "high": 1.8}))
    assert "between -100 % and 180 %" in wide.description, (
        "none are 100 % fewer, and no more can be"
    )
    near = pictured(failures("HEALTHY", -0.004, 0.004)).drawing
    assert near is not None
    assert (near.cut, near.outside) == ((), ())
    earlier = pictured(failures("INCONCLUSIVE", -0.9, 0.9), failures("HEALTHY", -0.004, 0.004))
    assert earlier.drawing is not None
    assert earlier.drawing.cut == ()
    assert earlier.drawing.outside == ("Earlier intervals continue beyond the picture.",)


def test_the_legend_tells_what_a_picture_without_a_shaded_part_says() -> None:
    made, facts = world()
    _, canary = made.histories
    told = "A picture without a shaded part is of a gate without a tolerance"

    def page(*histories: StepHistory) -> str:
        shown = rollouts.rollout(facts, histories)
        return render("rollout.html", here="", shown=shown, waiting=[], buttons=(), killed=None)

    asked_nothing = [
        msgspec.structs.replace(analysis, gates=(failures("HEALTHY", -0.01, 0.01, limit=None),))
        for analysis in canary.analyses
    ]
    assert told in page(msgspec.structs.replace(canary, analyses=tuple(asked_nothing)))
    toleranced = [
        msgspec.structs.replace(analysis, gates=(failures("HEALTHY", -0.01, 0.01),))
        for analysis in canary.analyses
    ]
    assert told not in page(msgspec.structs.replace(canary, analyses=tuple(toleranced)))


def test_the_legend_stands_only_on_a_page_with_a_picture() -> None:
    made, facts = world()
    shadow, _ = made.histories
    legend = '<p class="soft legend">'

    def page(gate: Gate) -> str:
        seen = tuple(msgspec.structs.replace(one, gates=(gate,)) for one in shadow.analyses)
        shown = rollouts.rollout(facts[:2], [msgspec.structs.replace(shadow, analyses=seen)])
        return render("rollout.html", here="", shown=shown, waiting=[], buttons=(), killed=None)

    assert legend in page(failures("HEALTHY", -0.01, 0.01))
    assert legend not in page(Gate("split", "HEALTHY", "the statistics", {}))


def test_a_verdict_is_told_by_shape_and_text_not_by_colour_alone() -> None:
    seen = {v: pictured(failures(v, 0.1, 0.2)) for v in VERDICTS}
    drawings = [g.drawing for g in seen.values()]
    assert len({d.shape for d in drawings if d is not None}) == 3
    assert len({g.mark for g in seen.values()}) == 3


def test_a_rollout_shows_each_step_with_the_looks_between_its_transitions() -> None:
    made, facts = world()
    alone = rollouts.rollout(facts)
    assert [(s.name, {g.analyses for g in s.gates} - {0}) for s in alone.steps] == [
        ("shadow, copies of every request", {1})
    ]
    shown = rollouts.rollout(facts, made.histories)
    assert [s.name for s in shown.steps] == [
        "canary, 5 % of the customers", "shadow, copies of every request",
    ]  # fmt: skip
    assert max(g.analyses for g in shown.steps[0].gates) == 3
    assert shown.steps[0].tone == "bad"
    assert shown.steps[0].gates[0].title == "answers in time"
    page = render("rollout.html", here="rollouts", shown=shown, waiting=[], buttons=(), killed=None)
    assert "fewer of its requests in time than the champion" in page
    assert page.count("<svg") == page.count("</svg>")
    for svg in re.findall(r"<svg [^>]*>", page):
        assert 'role="img"' in svg or "aria-hidden" in svg
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for named in re.findall(r'aria-labelledby="([^"]+)"', page):
        assert set(named.split()) <= set(ids)


def test_a_step_that_is_over_is_told_by_the_verdict_that_ended_it() -> None:
    made, facts = world()
    shadow, *others = made.histories
    asked = next(f for f in facts if f.evidence)
    late = InterimAnalysis(asked.event_ms + 60_000, "UNHEALTHY", 9, shadow.analyses[-1].gates)
    later = msgspec.structs.replace(shadow, analyses=(*shadow.analyses, late))
    over = rollouts.rollout(facts, [later, *others]).steps[-1]
    assert over.mark == MARKS[asked.evidence["verdict"]] != MARKS[late.verdict]
    assert over.records == asked.evidence["records"]


def test_a_ramp_shows_what_was_and_what_is_to_come() -> None:
    _, facts = world()
    shown = ramp.ramp(facts)
    assert shown is not None
    assert [(s.name, s.share) for s in shown.phases] == [
        ("deploying", 0.0), ("shadow", 0.0), ("approval", 0.0), ("canary 5 %", 5.0),
    ]  # fmt: skip
    assert [(p.name, p.share) for p in shown.planned] == [
        ("canary 25 %", 25.0), ("canary 50 %", 50.0), ("promoted", 100.0),
    ]  # fmt: skip
    assert shown.to_come
    assert "canary 5 % at 5 % of the customers" in shown.description
    ended = ramp.ramp(JudgedRollout(1, 400).stopped())
    assert ended is not None
    assert (ended.end, ended.planned, ended.phases[-1].share) == ("rolled_back", (), 0.0)
    assert ended.phases[-2].exposed == 20, "customers of the canary, counted by its evidence"


def test_the_running_step_has_its_planned_length_and_the_date_of_its_decision() -> None:
    _, facts = world()
    shown = ramp.ramp(facts[:2])
    assert shown is not None
    assert shown.phases[-1].takes == "0 s so far, 2.1 days planned"
    step, whole = plan_text.expected(fold(facts[:2]))
    assert step == (
        "The step in shadow began on 2025-10-09 08:53 UTC and was planned to take 2.1 days: its"
        " decision is expected about 2025-10-11 10:53 UTC, and its deadline is"
        " 2025-10-16 08:53 UTC."
    )
    assert whole.startswith(
        "Shadow and canary together were planned to take 4.6 days, without the wait for an"
        " approval: 2.1 days in shadow, 20 h at 5 % of the customers, "
    )
    page = render(
        "rollout.html",
        here="",
        shown=rollouts.rollout(facts[:2]),
        waiting=[],
        buttons=(),
        killed=None,
    )
    assert step in page
    assert whole in page
    assert plan_text.expected(fold(JudgedRollout(1, 400).stopped())) == ()


def test_a_pause_moves_the_date_of_the_decision() -> None:
    _, facts = world()
    same = {"rollout_id": "fraud-v2-1", "model": "fraud", "actor": "bo", "reason": "a check"}
    paused = [
        *facts[:2],
        Paused(**same, event_ms=facts[1].event_ms + 5, wall_ms=facts[1].wall_ms + 5),
        Resumed(**same, event_ms=facts[1].event_ms + 5 + DAY_MS, wall_ms=facts[1].wall_ms + DAY_MS),
    ]
    assert "expected about 2025-10-12 10:53 UTC" in plan_text.expected(fold(paused))[0]
    assert "later by as long as the pause lasts" in plan_text.expected(fold(paused[:3]))[0]


def test_an_answer_is_told_beside_the_reason_of_the_phase() -> None:
    """The approver's reason does not stand for that of the question."""
    _, facts = world()
    shown = rollouts.rollout(facts[:4])
    assert shown.why == "shown in shadow"
    said = (
        "ben has approved it: the interval is narrow enough."
        " The next pass acts on it, within a minute."
    )
    assert shown.answered == said
    page = render("rollout.html", here="", shown=shown, waiting=[], buttons=(), killed=None)
    assert "awaiting approval</b>: shown in shadow</p>" in page
    assert said in page
    assert rollouts.rollout(facts[:5]).answered == ""


def test_a_ramp_of_no_time_at_all_is_drawn() -> None:
    shown = ramp.ramp(world()[1][:1])
    assert shown is not None
    assert shown.phases[0].name == "deploying"
