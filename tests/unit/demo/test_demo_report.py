"""The demo's report says who was champion when, and never that a loop closed which did not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from demo import page, timeline
from demo.pictures import pictures
from demo.report import problems_of, show
from demo.story import gates_that_stopped
from demo.timeline import ChampionTenure, Promotion, tenures
from mlplatform.rollouts.journal.transitions import RolledBack
from mlplatform.runtime.units import HOUR_MS

FOUND: dict[str, Any] = {
    "closed": True,
    "problems": [],
    "source": "generated payments",
    "wall_s": 250.0,
    "totals": {"requests": 10, "lost": 0},
    "champions": [
        {"version": 1, "from": "2026-05-03 00:00", "until": "2026-05-18 16:51", "successor": 3}
    ],
    "rollouts": [
        {
            "id": "fraud-v1-1",
            "version": 1,
            "phases": [
                {"phase": "promoted", "event_ms": HOUR_MS, "event_time": "2026-05-03 00:00"},
                {"phase": "confirmed", "event_ms": 2 * HOUR_MS, "event_time": "2026-05-10 00:00"},
            ],
            "arms": {"champion": {"requests": 10, "customers": 3, "shadow_copies": 0}},
            "verdict": "confirmed",
            "reason": "7 days as champion",
            "evidence_digest": "a" * 64,
        }
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("promotions", "expected"),
    [
        pytest.param([], [], id="nobody was promoted"),
        pytest.param(
            [Promotion(1, 5, None)], [ChampionTenure(1, 5, None, None)], id="the first one stands"
        ),
        pytest.param(
            [Promotion(1, 5, None), Promotion(3, 9, None)],
            [ChampionTenure(1, 5, 9, 3), ChampionTenure(3, 9, None, None)],
            id="a tenure ends where the next one begins",
        ),
        pytest.param(
            [Promotion(1, 5, None), Promotion(2, 7, 8)],
            [
                ChampionTenure(1, 5, 7, 2),
                ChampionTenure(2, 7, 8, 1),
                ChampionTenure(1, 8, None, None),
            ],
            id="a promotion that was taken back gives way to its predecessor",
        ),
        pytest.param(
            [Promotion(1, 5, None), Promotion(2, 7, 9), Promotion(3, 8, None)],
            [
                ChampionTenure(1, 5, 7, 2),
                ChampionTenure(2, 7, 8, 3),
                ChampionTenure(3, 8, None, None),
            ],
            id="what is taken back after its replacement changes nothing",
        ),
    ],
)
def test_the_last_promotion_that_stands_rules(
    promotions: list[Promotion], expected: list[ChampionTenure]
) -> None:
    assert tenures(promotions) == expected


def rendered(**changes: Any) -> str:
    return page.render(FOUND | changes, timeline=[], pictures=[], notes=["a note"])


def test_a_replaced_champion_says_until_when() -> None:
    assert "until 2026-05-18 16:51, when v3 replaced it" in rendered()


def test_a_loop_that_did_not_close_says_so_and_why() -> None:
    assert "The loop closed as described" in rendered()
    failed = rendered(closed=False, problems=["2 requests lost & 1 doubled"])
    assert "did not close" in failed
    assert "2 requests lost &amp; 1 doubled" in failed
    assert "closed as described" not in failed


def test_every_picture_is_drawn_and_has_a_title() -> None:
    decisions = pa.table(
        {
            "event_ms": [HOUR_MS * n for n in range(1, 60)],
            "version": [1] * 59,
            "score": [n / 59 for n in range(59)],
            "decision": ["approve", "review", "decline"] * 19 + ["approve"] * 2,
        }
    )
    drawn = pictures(
        decisions,
        np.arange(59) % 2,
        change_ms=20 * HOUR_MS,
        rollouts=FOUND["rollouts"],
        champions=[
            ChampionTenure(1, HOUR_MS, 30 * HOUR_MS, 3),
            ChampionTenure(3, 30 * HOUR_MS, None, None),
        ],
    )
    assert len(drawn) == len({p.title for p in drawn}) == 5
    assert all(p.svg.startswith("<svg") for p in drawn)
    assert "v3 is champion" in drawn[0].svg
    assert pictures(decisions[:0], np.array([]), change_ms=0, rollouts=[], champions=[]) == []


WHOLE = {"requests": 10, "answers": 10, "records": 10, "lost": 0, "doubled": 0}


@pytest.mark.parametrize(
    ("totals", "problem", "findings", "named"),
    [
        (WHOLE, "version 3 went another way", [], "another way"),
        (WHOLE, None, ["gateway-0: record 7 was changed"], "record 7"),
        (WHOLE | {"lost": 1}, None, [], "1 requests lost"),
        (WHOLE | {"doubled": 2}, None, [], "2 doubled"),
        (WHOLE | {"records": 9}, None, [], "differ"),
    ],
)
def test_a_loop_that_did_not_close_says_why(
    totals: dict[str, int], problem: str | None, findings: list[str], named: str
) -> None:
    assert any(named in text for text in problems_of(totals, problem, findings))


def test_a_loop_that_closed_has_no_problem() -> None:
    assert problems_of(WHOLE, None, []) == []


def test_a_challenger_that_ended_by_no_gate_was_stopped_by_none() -> None:
    common = {"rollout_id": "fraud-v2-1", "model": "fraud", "event_ms": 1, "wall_ms": 1}
    signed = {"actor": "a pass", "reason": "it was stopped"}
    gates = {"alerts": {"verdict": "UNHEALTHY"}, "failures": {"verdict": "HEALTHY"}}
    by_alerts = RolledBack(**common, **signed, evidence={"gates": gates})
    by_hand = RolledBack(**common, **signed)
    assert gates_that_stopped([by_alerts]) == {"alerts"}
    assert gates_that_stopped([by_hand]) == gates_that_stopped([]) == set()


def test_the_closing_table_explains_its_counts_and_why_a_promotion_is_provisional() -> None:
    console = Console(record=True, file=io.StringIO(), width=150)
    promoted = {**FOUND["rollouts"][0], "version": 3, "verdict": "promoted"}
    found = {
        **FOUND,
        "rollouts": [*FOUND["rollouts"], promoted],
        "totals": {"requests": 10, "degraded": 3, "lost": 0, "retries": 2},
        "log": {"records": 10, "verdict": "whole"},
        "replays": {"verdicts": 2, "differ": []},
        "outcome": None,
    }
    show(console, found, Path("demo"))
    shown = console.export_text()
    assert "degraded 3  lost 0  retries 2" in shown
    assert "Degraded: the answer came in time" in shown
    assert "v3 is promoted provisionally" in shown
    assert "v1 is promoted" not in shown


def test_a_long_reason_is_cut_at_a_sentence_in_the_timeline() -> None:
    sentence = (
        "The challenger answers at most 0.8 percentage points fewer of its requests in time. "
    )
    cut = timeline._begun(sentence * 20)
    assert cut == (sentence * 2).strip() + " …"
    assert timeline._begun(sentence) == sentence
    assert timeline._begun("x" * 200 + " " + "y" * 200) == "x" * 200 + " …"
