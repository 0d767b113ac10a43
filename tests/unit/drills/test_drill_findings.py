"""A drill of the scoring path that breaks a promise says which."""

from __future__ import annotations

from typing import Any

import pytest
from tests.drills.scoring_client import SentRequest
from tests.drills.scoring_findings import Finding, Shows, Window, calm, finding, judged

FAULT = Window(2.0, 4.0)
RATE = 10.0


def requests(**of_the_fault: Any) -> list[SentRequest]:
    """Six seconds of them; those due during the fault are changed."""
    made = []
    for number in range(60):
        due_s = number / RATE
        sent = SentRequest(
            f"k-{number}", due_s, due_s, due_s + 0.005, 200, 1, decision_id=f"d{number}"
        )
        if FAULT.from_s <= due_s < FAULT.to_s:
            for name, value in of_the_fault.items():
                setattr(sent, name, value)
        made.append(sent)
    return made


def records(sent: list[SentRequest]) -> list[dict[str, Any]]:
    return [{"key": s.key, "decision_id": s.decision_id} for s in sent if s.status == 200]


def found(
    sent: list[SentRequest],
    shows: Shows,
    log: list[dict[str, Any]] | None = None,
    *,
    calm_from_s: float | None = 5.5,
    verified: bool = True,
    waited_ms: float = 0.0,
) -> Finding:
    figures = finding(
        sent,
        FAULT,
        records(sent) if log is None else log,
        deadline_ms=50,
        calm_from_s=calm_from_s,
        verified=verified,
        expected="",
        waited_ms=lambda from_s, to_s: waited_ms,
    )
    return judged(figures, shows)


def test_degraded_answers_in_a_fault_break_nothing() -> None:
    it = found(requests(degraded=True, reason="unavailable"), "degraded")
    assert it.ok
    assert (it.answers, it.degraded_share, it.degraded_share_before) == (60, 1.0, 0.0)
    assert (it.degraded_share_after, it.recovery_s, it.late) == (0.0, 0.0, 0)


def test_recovery_lasts_until_the_last_answer_that_was_not_whole() -> None:
    sent = requests(degraded=True, reason="unavailable")
    sent[50].degraded = True
    assert found(sent, "degraded").recovery_s == 1.0


NONE = {"status": 0, "first_s": None, "attempts": 2, "broken": 2}
REFUSED = {"status": 503, "problem": "log-unavailable"}


@pytest.mark.parametrize(
    ("changed", "shows", "given", "promise"),
    [
        pytest.param(NONE, "retried", {}, "no request goes unanswered", id="no answer"),
        pytest.param(REFUSED, "degraded", {}, "no request is refused", id="an undeclared refusal"),
        pytest.param({}, "degraded", {}, "what shows is: degraded", id="a fault that was none"),
        pytest.param(
            {"degraded": True, "reason": "features"}, "nothing", {}, "what shows is: nothing",
            id="a fault that shows where none may",
        ),
        pytest.param(
            {}, "nothing", {"calm_from_s": None}, "answers are whole again after the fault",
            id="no recovery",
        ),
        pytest.param(
            {}, "nothing", {"verified": False}, "the log verifies", id="a log that is not right"
        ),
    ],
)  # fmt: skip
def test_a_broken_promise_is_named(
    changed: dict[str, Any], shows: Shows, given: dict[str, Any], promise: str
) -> None:
    it = found(requests(**changed), shows, **given)
    assert not it.ok
    assert promise in it.broken


def test_declared_refusals_are_counted_by_their_problem() -> None:
    it = found(requests(**REFUSED), "refused")
    assert it.ok
    assert (it.answers, it.refused) == (40, {"log-unavailable": 20})


def test_an_answer_without_a_record_is_lost() -> None:
    it = found(requests(), "nothing", records(requests())[1:])
    assert (it.lost, it.broken) == (1, ["no answer is without a record"])


def test_two_decisions_of_one_key_are_one_too_many() -> None:
    twice = [*records(requests()), {"key": "k-3", "decision_id": "another"}]
    it = found(requests(), "nothing", twice)
    assert (it.doubled, it.broken) == (1, ["no key has two decisions"])


def test_late_is_a_figure_and_breaks_nothing() -> None:
    sent = requests()
    sent[0].first_s = 0.071
    sent[1].first_s = sent[1].due_s + 0.069
    it = found(sent, "nothing")
    assert (it.late, it.ok) == (1, True)


@pytest.mark.parametrize(
    ("sent_late_s", "waited_ms", "causes"),
    [
        pytest.param(0.0, 0.0, (0, 0, 1), id="nothing else explains it"),
        pytest.param(0.0, 29.9, (0, 0, 1), id="it would have been late without the wait too"),
        pytest.param(0.0, 30.1, (0, 1, 0), id="it would have been in time without the wait"),
        pytest.param(0.011, 0.0, (1, 0, 0), id="the client sent it late"),
        pytest.param(0.011, 99.0, (1, 0, 0), id="each is counted once"),
    ],
)
def test_a_late_answer_has_one_cause(
    sent_late_s: float, waited_ms: float, causes: tuple[int, int, int]
) -> None:
    sent = requests()
    sent[0].sent_s, sent[0].first_s = sent_late_s, 0.1
    it = found(sent, "nothing", waited_ms=waited_ms)
    assert (it.client_late, it.core_late, it.path_late) == causes
    assert it.late == 1


def test_a_calm_takes_its_whole_time_and_all_of_its_requests() -> None:
    sent = requests(degraded=True)
    assert calm(sent, FAULT.to_s, 1.5, RATE) == pytest.approx(5.9 - 1.5)
    assert calm(sent[:50], FAULT.to_s, 1.5, RATE) is None
    assert calm([*sent[:45], *sent[55:]], FAULT.to_s, 1.5, RATE) is None
    sent[-1].status = 503
    assert calm(sent, FAULT.to_s, 1.5, RATE) is None


def test_a_stray_among_hundreds_ends_no_calm() -> None:
    sent = [SentRequest(str(n), n / 200, status=200, degraded=n in (150, 160)) for n in range(400)]
    assert calm(sent, 0.0, 1.5, 200.0) is not None
    for one in sent[200:220]:
        one.degraded = True
    assert calm(sent, 0.0, 1.5, 200.0) is None
