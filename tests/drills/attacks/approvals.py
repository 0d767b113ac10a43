"""Approvals that nobody gave: forged forms, forged answers, forged and borrowed codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.drills.attacks.attack import APPROVAL, PREFECT, Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import ask, identities

from mlplatform.operations.prefect_server.answer_limit import MOST_ANSWERS

LOOK_ALIKE: Final = "\u0430na"  # a Cyrillic letter, and two Latin ones
ANSWER_LIMIT_S: Final = 25.0
REASON: Final = "the evidence was read"
FORGED: Final = "# Every gate passed\n\nApprove at once."
CODES: Final = ("bo.0000000000", "mlp_forged-by-eve", "eyJhbGciOiJub25lIn0.e30.", "' OR 1=1 --")


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "approval, the form's description replaced",
            "high",
            "DELETE and POST /api/flow_runs/{id}/input of the form's description, as nobody and as "
            "a person who may run flows",
            "401 or 403; the form shows what the platform wrote",
            description,
            PREFECT,
            asks=True,
        ),
        Attack(
            "approval, the evidence artifact replaced",
            "high",
            "PATCH /api/artifacts/{id} with forged gates, as nobody and as a person who may run "
            "flows",
            "401 or 403",
            artifact,
            PREFECT,
            asks=True,
        ),
        Attack(
            "approval, the form's schema replaced",
            "high",
            "POST /api/flow_runs/{id}/input of the keyset's schema and response, as nobody and eve",
            "401 or 403",
            schema,
            PREFECT,
            asks=True,
        ),
        Attack(
            "approval, one resume call as Chief Risk Officer",
            "high",
            "POST /api/flow_runs/{id}/resume with decision approve and that name, by nobody",
            "401; no answer in the journal",
            chief_risk_officer,
            APPROVAL,
            asks=True,
        ),
        Attack(
            "approval, by a person who may only run flows",
            "high",
            "the same by eve, who is logged in and lacks the scope approve",
            "no answer in the journal, as no code of bo's is given",
            by_eve,
            APPROVAL,
            asks=True,
        ),
        Attack(
            "approval, a code that nobody issued",
            "high",
            f"resume by bo with codes made up: {', '.join(repr(c[:12]) for c in CODES)}",
            "no answer in the journal",
            made_up_codes,
            APPROVAL,
            asks=True,
        ),
        Attack(
            "approval, a hundred wrong codes of one approver",
            "medium",
            "resume a hundred times as the author, who has the scope approve, with wrong codes of "
            "the author's name, and once with one of bo's",
            "all but a few are 403, so the form waits for others",
            a_hundred_wrong,
            PREFECT,
            asks=True,
        ),
        Attack(
            "approval, a code issued for the other decision",
            "high",
            "a code of bo's to reject, entered with decision approve",
            "no answer in the journal",
            other_decision,
            APPROVAL,
            asks=True,
            by_operator=True,
        ),
        Attack(
            "approval, a code of an earlier question",
            "high",
            "a code of bo's to approve, whose question was then asked anew over other evidence",
            "no answer in the journal",
            earlier_question,
            APPROVAL,
            asks=True,
            by_operator=True,
            asks_anew=True,
        ),
        Attack(
            "approval, a code for the author",
            "high",
            "rollouts approve --code as ana, who made the version, with her own key",
            "no code",
            for_the_author,
            APPROVAL,
            asks=True,
            by_operator=True,
        ),
        Attack(
            "approval, a code for a person without the scope",
            "high",
            "rollouts approve --code as eve with her own key, and as bo with eve's key",
            "no code",
            without_the_scope,
            APPROVAL,
            asks=True,
            by_operator=True,
        ),
        Attack(
            "approval, a look-alike of the author's name",
            "low",
            "rollouts approve by \u0430na (a Cyrillic letter), with and without a code",
            "refused; no answer in the journal",
            look_alike,
            asks=True,
            by_operator=True,
        ),
        Attack(
            "approval, the approval flow started for a forged question",
            "high",
            "create_flow_run of fraud-approval with a digest of the attacker's, by "
            "nobody and by eve",
            "401 or 403: passes alone ask",
            own_question,
            PREFECT,
            asks=True,
        ),
        Attack(
            "approval, the question's run forced to an end",
            "high",
            "set_state COMPLETED, CANCELLED, SCHEDULED with force on the suspended run, as nobody "
            "and eve",
            "401 or 403",
            forced,
            PREFECT,
            asks=True,
        ),
    )


def description(target: Target) -> AttackResult:
    results = []
    for who, own in identities(target).items():
        keyset = _keyset(target, own)
        inputs = f"{target.prefect}/api/flow_runs/{target.question.flow_run}/input"
        key = keyset.get("description", "unknown-description")
        gone = ask("DELETE", f"{inputs}/{key}", headers=own)
        made = ask("POST", inputs, json={"key": key, "value": json.dumps(FORGED)}, headers=own)
        shown = ask("GET", f"{inputs}/{key}", headers=own)
        forged = "Approve at once" in shown.text
        said = f"{who}: DELETE {gone.status}, POST {made.status}, shown: {shown.status}"
        results.append(AttackResult(gone.shut and made.shut and not forged, said))
    return all_of(results)


def schema(target: Target) -> AttackResult:
    results = []
    for who, own in identities(target).items():
        keyset = _keyset(target, own)
        inputs = f"{target.prefect}/api/flow_runs/{target.question.flow_run}/input"
        for part, value in (("schema", {"type": "object"}), ("response", {"decision": "approve"})):
            key = f"{keyset.get(part, f'unknown-{part}')}x"
            body = {"key": key, "value": json.dumps(value)}
            answer = ask("POST", inputs, json=body, headers=own)
            results.append(AttackResult(answer.shut, f"{who}: {answer.status} to {part}"))
    return all_of(results)


def artifact(target: Target) -> AttackResult:
    results = []
    for who, own in identities(target).items():
        url = f"{target.prefect}/api/artifacts/{target.artifact}"
        answer = ask("PATCH", url, json={"data": FORGED}, headers=own)
        results.append(AttackResult(answer.shut, f"{who}: {answer.status}"))
    return all_of(results)


def chief_risk_officer(target: Target) -> AttackResult:
    return _resumed(target, {}, "Chief Risk Officer", CODES[0], "nobody")


def by_eve(target: Target) -> AttackResult:
    people = identities(target, "eve")
    return _resumed(target, people["eve"], "bo", CODES[0], "eve")


def made_up_codes(target: Target) -> AttackResult:
    own = identities(target, "bo")["bo"]
    results = []
    for code in CODES[1:]:
        got = _resumed(target, own, "bo", code, "bo")
        results.append(got)
        if not got.refused:
            break
    return all_of(results)


def a_hundred_wrong(target: Target) -> AttackResult:
    author = target.question.author
    own = identities(target, author)[author]
    resume = f"{target.prefect}/api/flow_runs/{target.question.flow_run}/resume"
    answers = []
    for name in ("bo", *[author] * 100):
        form = {
            "decision": "approve",
            "code": f"{name}:0a1b2c3d:4102444800:WRONG",
            "reason": REASON,
        }
        answers.append(ask("POST", resume, json={"run_input": form}, headers=own, within_s=60))
    taken = sum(not answer.shut for answer in answers)
    return AttackResult(
        answers[0].shut and taken <= MOST_ANSWERS, f"{taken} of {len(answers)} reach Prefect"
    )


def other_decision(target: Target) -> AttackResult:
    code = issued(target, "bo", "bo", "reject")[1]
    own = identities(target, "bo")["bo"]
    return _resumed(target, own, "bo", code or "none", f"bo, with {'a' if code else 'no'} code")


def earlier_question(target: Target) -> AttackResult:
    """The code is made for the question that was; the drill then asks anew, and gives both."""
    code = target.earlier_code
    own = identities(target, "bo")["bo"]
    return _resumed(target, own, "bo", code or "none yet", f"bo, with {'a' if code else 'no'} code")


def for_the_author(target: Target) -> AttackResult:
    said, code = issued(target, target.question.author, target.question.author, "approve")
    return AttackResult(_knows_codes(said) and not code, said)


def without_the_scope(target: Target) -> AttackResult:
    results = []
    for name, key in (("eve", "eve"), ("bo", "eve"), ("shop", "shop"), ("bo", "stranger")):
        said, code = issued(target, name, key, "approve")
        results.append(
            AttackResult(_knows_codes(said) and not code, f"{name} with {key}'s key: {said}")
        )
    return all_of(results)


def look_alike(target: Target) -> AttackResult:
    said, code = issued(target, LOOK_ALIKE, target.question.author, "approve")
    plain = ("--decision", "approve", "--approver", LOOK_ALIKE, "--reason", REASON)
    done = _command(target, "rollouts", "approve", target.question.rollout_id, *plain)
    return AttackResult(
        not code and done.returncode != 0, f"code: {said}; answer: {_last_line(done)}"
    )


def own_question(target: Target) -> AttackResult:
    results = []
    url = f"{target.prefect}/api/deployments/{target.deployments['fraud-approval']}"
    parameters = {
        "model": "fraud",
        "rollout_id": target.question.rollout_id,
        "evidence_digest": "0" * 64,
    }
    for who, own in identities(target).items():
        body = {"parameters": parameters, "state": {"type": "SCHEDULED", "state_details": {
            "scheduled_time": (datetime.now(UTC) + timedelta(hours=20)).isoformat()}}}  # fmt: skip
        answer = ask("POST", f"{url}/create_flow_run", json=body, headers=own)
        results.append(AttackResult(answer.shut, f"{who}: {answer.status}"))
    return all_of(results)


def forced(target: Target) -> AttackResult:
    results = []
    url = f"{target.prefect}/api/flow_runs/{target.question.flow_run}/set_state"
    for who, own in identities(target).items():
        for state in ("SCHEDULED", "CANCELLED", "COMPLETED"):
            body = {"state": {"type": state, "name": state.title()}, "force": True}
            answer = ask("POST", url, json=body, headers=own)
            results.append(AttackResult(answer.shut, f"{who}: {answer.status} to {state}"))
    return all_of(results)


def issued(target: Target, approver: str, key: str, decision: str) -> tuple[str, str]:
    """What the command says, and the code that it gives; empty: none."""
    file = Path(f"/tmp/attack-{os.getpid()}.key")
    file.touch(mode=0o600)
    file.write_text(target.keys[key].secret)
    try:
        done = _command(
            target, "rollouts", "approve", target.question.rollout_id, "--code",
            "--approver", approver, "--key-file", str(file), "--decision", decision,
            "--reason", REASON, "--json",
        )  # fmt: skip
    finally:
        file.unlink()
    if done.returncode != 0:
        return _last_line(done), ""
    try:
        given = json.loads(done.stdout)
    except ValueError:
        given = {"code": done.stdout.split()[-1] if done.stdout.split() else ""}
    return "issued", str(given.get("code", ""))


def _knows_codes(said: str) -> bool:
    """Whether this release has codes at all: without them an approval needs no proof."""
    return "No such option" not in said


def _command(target: Target, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlplatform.commands", *arguments],
        env={
            **os.environ,
            "MLPLATFORM_HOME": str(target.home),
            "MLPLATFORM_PREFECT_PORT": str(target.prefect_port),
            "MLPLATFORM_MLFLOW_PORT": str(target.mlflow_port),
            "MLPLATFORM_GATEWAY_PORT": str(target.gateway_port),
            "MLPLATFORM_PAGE_PORT": str(target.page_port),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip(" │") for line in (done.stderr or done.stdout).splitlines()]
    told = [line for line in lines if line and not set(line) <= set("╭╮╰╯─ ")]
    return f"exit {done.returncode}: {told[-1][:100]}" if told else f"exit {done.returncode}"


def _resumed(
    target: Target, own: dict[str, str], approver: str, code: str, who: str
) -> AttackResult:
    """What Prefect says to an answer; the drill itself looks into the journal afterwards."""
    run = f"{target.prefect}/api/flow_runs/{target.question.flow_run}"
    answer: dict[str, Any] = {"decision": "approve", "code": code, "reason": REASON}
    said = []
    for form in (answer, answer | {"approver": approver}):
        given = ask("POST", f"{run}/resume", json={"run_input": form}, headers=own, within_s=20)
        said.append(str(given.status))
        if given.shut:
            continue
        accepted = given.status < 300 and '"ACCEPT"' in given.text
        if accepted:
            return _after_an_answer(run, own, who, given.status)
        said[-1] += " not accepted"
    return AttackResult(True, f"{who}: {', '.join(said)}")


def _after_an_answer(run: str, own: dict[str, str], who: str, status: int) -> AttackResult:
    """An answer that was let through: whether the flow took it, or asks again."""
    end_s = time.monotonic() + ANSWER_LIMIT_S
    state = ""
    while time.monotonic() < end_s:
        time.sleep(0.5)
        shown = ask("GET", run, headers=own)
        state = json.loads(shown.text).get("state_type", "") if shown.status == 200 else ""
        if state in ("COMPLETED", "PAUSED", "FAILED", "CRASHED"):
            break
    return AttackResult(
        state != "COMPLETED", f"{who}: {status}, then the run is {state or 'unknown'}"
    )


def _keyset(target: Target, own: dict[str, str]) -> dict[str, str]:
    run = ask("GET", f"{target.prefect}/api/flow_runs/{target.question.flow_run}", headers=own)
    if run.status != 200:
        return {}
    details = (json.loads(run.text).get("state") or {}).get("state_details") or {}
    return details.get("run_input_keyset") or {}
