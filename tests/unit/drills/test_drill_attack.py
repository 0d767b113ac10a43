"""What the drills of attacks and of strange inputs take for a finding."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from tests.drills import fuzz, fuzz_parsers
from tests.drills.attack import report
from tests.drills.attacks.attack import AttackResult, Finding, Question, Target, all_of
from tests.drills.attacks.catalogue import ATTACKS
from tests.drills.attacks.others import UID, carried_out
from tests.drills.attacks.wire import Answer, parsed
from tests.drills.fuzz_mutations import MOST_BYTES, near

TARGET = Target(
    home=Path("home"), prefect_port=1, gateway_port=2, mlflow_port=3, page_port=4, keys={},
    ports={}, pids={}, unix=(), deployments={}, automations=(), operations=(),
    question=Question("r", "ana", "e", "run"), artifact="a", decision="d", folder=Path("folder"),
)  # fmt: skip


def held(name: str = "a door", **changes: Any) -> Finding:
    facts = {
        "name": name, "severity": "high", "done": "knock", "expected": "401", "got": "401",
        "refused": True, "recorded": None, "recorded_at": "", "by": "user", "seconds": 0.1,
    } | changes  # fmt: skip
    return Finding(**facts)


def test_there_is_an_attack_for_each_door_and_each_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 13 + 30
    assert {a.severity for a in ATTACKS} == {"critical", "high", "medium", "low"}


def test_what_an_attack_came_to_is_handed_on() -> None:
    assert carried_out(
        lambda target: AttackResult(True, str(target.gateway_port)), TARGET, uid=None
    ) == AttackResult(True, "2")


def test_an_attack_that_breaks_counts_as_one_that_succeeded() -> None:
    def breaks(target: Target) -> AttackResult:
        raise ValueError("no door is there")

    assert carried_out(breaks, TARGET, uid=None) == AttackResult(
        False, "the attack broke: ValueError: no door is there"
    )


def test_an_attack_without_an_end_counts_as_one_that_succeeded() -> None:
    def never_ends(target: Target) -> AttackResult:
        time.sleep(60)
        return AttackResult(True, "refused")

    began_s = time.monotonic()
    got = carried_out(never_ends, TARGET, uid=None, limit_s=0.3)
    assert not got.refused
    assert time.monotonic() - began_s < 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_attack_is_carried_out_by_another_user_who_can_not_go_back(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    def who(target: Target) -> AttackResult:
        try:
            os.setuid(0)
        except PermissionError:
            return AttackResult(os.access(tmp_path, os.R_OK), f"{os.getuid()} {os.getgroups()}")
        return AttackResult(True, "root again")

    assert carried_out(who, TARGET, uid=UID) == AttackResult(False, f"{UID} []")


def test_one_open_door_of_many_is_an_open_door() -> None:
    assert not all_of(
        [AttackResult(True, "401"), AttackResult(False, "200 /metrics"), AttackResult(True, "401")]
    ).refused
    assert all_of([AttackResult(True, "401"), AttackResult(True, "403")]) == AttackResult(
        True, "401; 403"
    )


@pytest.mark.parametrize(
    ("findings", "ok"),
    [
        pytest.param([held()], True, id="all held"),
        pytest.param([held(recorded=True)], True, id="held, and recorded"),
        pytest.param([held(), held("b", refused=False)], False, id="one succeeded"),
        pytest.param([held(recorded=False)], False, id="held, and nobody knows"),
        pytest.param([], False, id="nothing was tried"),
    ],
)
def test_a_drill_passes_where_each_attack_was_refused_and_recorded(
    findings: list[Finding], ok: bool
) -> None:
    assert report(findings, [], 1.0)["ok"] is ok


@pytest.mark.parametrize(
    ("answer", "shut"),
    [
        (Answer(401, {}, ""), True),
        (Answer(303, {"location": "/flows"}, ""), False),
        (Answer(200, {}, ""), False),
        (Answer(404, {}, ""), False),
        (Answer(422, {}, ""), False),
    ],
)
def test_a_door_is_shut_where_nothing_behind_it_answered(answer: Answer, shut: bool) -> None:
    assert answer.shut is shut


def test_an_answer_is_read_from_its_bytes() -> None:
    found = parsed(b"HTTP/1.1 303 See Other\r\nLocation: /login\r\n\r\nbody")
    assert dataclasses.astuple(found) == (303, {"location": "/login"}, "body")
    assert parsed(b"").status == 0


@given(near([b'{"a": 1}', b'{"b": [2, 3]}']))
@settings(max_examples=50, deadline=None)
def test_a_mutated_input_is_bounded(data: bytes) -> None:
    assert len(data) <= MOST_BYTES


@pytest.mark.parametrize(
    ("told", "problems"),
    [
        ({"parser": "p", "seconds": 1.0, "cases": 9, "crashes": [], "peak_mib": 70.0}, 0),
        ({"parser": "p", "seconds": 1.0, "cases": 9, "crashes": [{"error": "E"}]}, 1),
        ({"piece": "p", "seconds": 1.0, "cases": 9, "deaths": ["gateway"]}, 1),
        ({"piece": "p", "seconds": 1.0, "cases": 9, "undeclared": [{"error": "500"}]}, 1),
        ({"cases": {"onnx": 4, "yaml": 5}, "crashes": 0, "undeclared": 0, "peak_mib": 400}, 0),
        ({"cases": {"onnx": 4, "yaml": 5}, "crashes": 2, "undeclared": 0, "peak_mib": 400}, 1),
        ({"piece": "p", "seconds": 1.0, "cases": 9, "gateway_peak_mib": 600.0,
          "gateway_limit_mib": 512.0}, 1),
    ],
)  # fmt: skip
def test_what_a_piece_of_the_fuzz_tells_is_a_problem_or_not(
    told: dict[str, Any], problems: int
) -> None:
    [of] = fuzz.summary([fuzz._told("parsers", "again", told)]).values()
    assert (len(of["problems"]), of["cases"]) == (problems, 9)


def test_a_piece_that_ends_without_a_report_is_a_problem() -> None:
    failed = fuzz._failed("parsers", "tests.drills.fuzz_parsers --seed 7", "ended with -11", b"")
    [of] = fuzz.summary([failed]).values()
    assert of["problems"] == [{"what": "ended with -11: ", "again": failed["again"]}]


def test_the_fuzz_finds_every_parser_that_it_names() -> None:
    assert {"page-search", "refusals-file", "redaction"} <= set(fuzz_parsers.parsers())
