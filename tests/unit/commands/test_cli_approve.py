"""`rollouts approve` says what became of the answer, not only that it was sent."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from mlplatform import commands
from mlplatform.commands import rollouts as command
from mlplatform.decisions.records.pseudonym import load_or_create_key
from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.prefect_client.prefect import FlowRun
from mlplatform.rollouts.journal import approval_codes
from mlplatform.rollouts.journal.approval_codes import VALID_S, Approver, Question
from mlplatform.rollouts.journal.transitions import Answered, ApprovalAsked, ProvenIdentity
from mlplatform.rollouts.passes.commands import ValidatedVersion, open_rollout
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, NotFound, Refused
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.admission.clients import Client, parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.people import people
from mlplatform.scoring.admission.secrets import digest as secret_digest
from mlplatform.scoring.admission.secrets import key_id
from rollout_world import StoppedClock, gate_report

CLOCK = StoppedClock()
EVIDENCE = {"requests": 1500}
DIGEST = digest(EVIDENCE)
ACCOUNT = ProvenIdentity(issuer="https://login.bank.example", subject="7", known_as=("b.jo",))
JO = Approver.by_provider("jo", ACCOUNT)


def suspended(rollout: str, state: str = "PAUSED", state_ms: int = 1) -> FlowRun:
    given = {"rollout_id": rollout, "evidence_digest": DIGEST}
    return FlowRun("r-1", "calm-lynx", state, "", "", given, state_ms)


class FormOfPrefect:
    """One suspended approval, whose flow does with an answer what `becomes` says."""

    def __init__(self, platform: wiring.Platform, rollout: str, becomes: str) -> None:
        self._platform = platform
        self._becomes = becomes
        self.now = suspended(rollout)
        self.asked_after = 0
        self.answers: list[Mapping[str, Any]] = []

    def suspended(self) -> list[FlowRun]:
        self.asked_after -= 1
        return [self.now] if self.asked_after < 0 else []

    def submit_input(self, run_id: str, run_input: Mapping[str, Any]) -> None:
        self.answers.append(run_input)
        rollout = self.now.parameters["rollout_id"]
        match self._becomes:
            case "recorded":
                answered = Question(rollout, DIGEST, run_input["decision"])
                code, reason = run_input["code"], run_input["reason"]
                job.record_approval(self._platform, answered, code=code, reason=reason)
                self.now = suspended(rollout, "COMPLETED", 2)
            case "asked again":
                self.now = suspended(rollout, "PAUSED", 2)
            case "failed":
                self.now = suspended(rollout, "FAILED", 2)
            case "late":
                self.now = suspended(rollout, "SCHEDULED", 2)

    def run(self, run_id: str) -> FlowRun:
        return self.now


@pytest.fixture
def platform(tmp_path: Path) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    return wiring.Platform(settings)


@pytest.fixture
def rollout(platform: wiring.Platform) -> str:
    """The id of a rollout that ana's version waits in."""
    validated = ValidatedVersion(1, "b" * 64, "ana", 0.0, 0.1, gate_report("b" * 64))
    rollouts = platform.rollouts
    found = open_rollout(
        rollouts, "fraud", validated, approval="required", actor="ana", reason="new", clock=CLOCK
    )
    fence = rollouts.acquire("fraud", "a pass", 10.0)
    asked = ApprovalAsked(
        rollout_id=found,
        model="fraud",
        event_ms=1,
        wall_ms=1,
        actor="a pass",
        reason="it is ready",
        evidence=EVIDENCE,
    )
    rollouts.commit(asked, fence)
    return found


def key(platform: wiring.Platform, name: str, *scopes: str) -> str:
    """The secret of a new key."""
    made = frozenset(parse_scope(scope) for scope in scopes or ("fraud:approve",))
    _, secret = create_key(
        platform.keys, name, made, priority="standard", limit=None, now_ms=CLOCK.wall_ms()
    )
    return secret


@pytest.fixture
def approve(
    platform: wiring.Platform, rollout: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[Result, FormOfPrefect]]:
    monkeypatch.setattr(command, "RECORD_LIMIT_S", 0.02)
    monkeypatch.setattr(command, "ASK_LIMIT_S", 0.1)
    monkeypatch.setattr(command, "POLL_S", 0.001)
    monkeypatch.setattr(wiring, "existing_platform", lambda: platform)

    def run(
        approver: str,
        becomes: str = "recorded",
        *,
        secret: str = "",
        more: Sequence[str] = (),
        asked_after: int = 0,
    ) -> tuple[Result, FormOfPrefect]:
        form = FormOfPrefect(platform, rollout, becomes)
        form.asked_after = asked_after
        monkeypatch.setitem(vars(platform), "prefect", form)
        file = tmp_path / "key"
        file.write_text(f"{secret or key(platform, approver.strip().casefold())}\n")
        words = ["rollouts", "approve", rollout, "--decision", "approve", "--json"]
        words += ["--approver", approver, "--reason", "it was read", "--key-file", str(file)]
        return CliRunner().invoke(commands.app, [*words, *more]), form

    return run


def refused(platform: wiring.Platform) -> list[str]:
    return [r.why for r in Refusals(platform.settings.home.audit).since(0) if r.door == "approval"]


@pytest.mark.parametrize(("becomes", "recorded"), [("recorded", True), ("late", False)])
def test_it_says_whether_the_answer_stands_in_the_journal(
    approve: Any, becomes: str, recorded: bool
) -> None:
    result, _ = approve("bo", becomes)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recorded"] is recorded


def test_it_waits_until_a_pass_has_asked_in_prefect(approve: Any) -> None:
    """The journal asks first: who answers then need not type it again."""
    result, form = approve("bo", asked_after=3)
    assert result.exit_code == 0, result.output
    assert len(form.answers) == 1


def test_who_answers_before_prefect_asks_is_told_when_it_will(approve: Any) -> None:
    result, form = approve("bo", asked_after=10**9)
    assert isinstance(result.exception, NotFound)
    assert "the next pass, within a minute, asks it" in str(result.exception)
    assert form.answers == []


def test_the_journal_says_how_the_approver_was_known(
    approve: Any, platform: wiring.Platform
) -> None:
    approve("bo")
    (state,) = platform.rollouts.active("fraud")
    assert state.answer is not None
    assert state.answer.approver == "bo"
    (used,) = (k.id for k in platform.keys.all_keys() if k.client == "bo")
    assert state.answer.proven_by == f"code of key {used}"


@pytest.mark.parametrize("becomes", ["asked again", "failed"])
def test_an_answer_that_the_flow_turned_down_is_no_success(approve: Any, becomes: str) -> None:
    result, form = approve("bo", becomes)
    assert isinstance(result.exception, Refused)
    assert "was rejected" in str(result.exception)
    assert len(form.answers) == 1


@pytest.mark.parametrize("author", ["ana", " Ana "])
def test_the_author_is_refused_before_the_form_is_answered(
    approve: Any, author: str, platform: wiring.Platform
) -> None:
    result, form = approve(author)
    assert isinstance(result.exception, Refused)
    assert "somebody else must decide" in str(result.exception)
    assert form.answers == []
    assert len(refused(platform)) == 1


def test_a_look_alike_is_no_name_of_anybody(approve: Any) -> None:
    result, form = approve("аna", secret="mlp_none")  # noqa: RUF001 -- a Cyrillic a
    assert isinstance(result.exception, ConfigInvalid)
    assert form.answers == []


@pytest.mark.parametrize(
    ("scopes", "wanted"),
    [
        (("*:*",), "no person has the name"),
        (("fraud:run",), "may not approve"),
        (("other:approve",), "may not approve"),
    ],
)
def test_a_key_that_may_not_approve_proves_no_approver(
    approve: Any, platform: wiring.Platform, scopes: tuple[str, ...], wanted: str
) -> None:
    result, form = approve("bo", secret=key(platform, "bo", *scopes))
    assert isinstance(result.exception, Refused)
    assert wanted in str(result.exception)
    assert form.answers == []
    assert len(refused(platform)) == 1


@pytest.mark.parametrize("secret", ["mlp_made-up", "", "x" * 5000])
def test_a_key_of_nobody_is_refused_and_kept(
    approve: Any, platform: wiring.Platform, secret: str
) -> None:
    key(platform, "bo")
    result, form = approve("bo", secret=secret or " ")
    assert isinstance(result.exception, Refused)
    assert form.answers == []
    assert len(refused(platform)) == 1


def test_somebody_elses_key_is_refused(approve: Any, platform: wiring.Platform) -> None:
    result, _ = approve("bo", secret=key(platform, "cy"))
    assert isinstance(result.exception, Refused)


def test_a_code_is_shown_with_the_evidence_and_answers_nothing(
    approve: Any, platform: wiring.Platform
) -> None:
    result, form = approve("bo", more=["--code"])
    shown = json.loads(result.stdout)
    assert shown["evidence_digest"] == DIGEST
    assert "May version" in shown["evidence"]
    assert shown["code"].startswith("bo:")
    assert form.answers == []


def test_a_code_is_worth_nothing_once_its_key_was_revoked(
    platform: wiring.Platform, rollout: str
) -> None:
    secret = key(platform, "bo")
    question, _ = job.question(platform, rollout, "approve")
    code, until_s = job.approval_code(platform, question, approver="bo", secret=secret.encode())
    assert until_s == platform.clock.wall_ms() // 1000 + VALID_S
    platform.keys.revoke("bo", platform.clock.wall_ms())
    key(platform, "bo")  # a new one does not bring the old one's code to life
    with pytest.raises(Refused, match="is not live"):
        job.record_approval(platform, question, code=code, reason="it was read")
    assert len(refused(platform)) == 1


def test_a_second_key_of_an_approver_that_may_not_approve_gives_no_code(
    platform: wiring.Platform, rollout: str
) -> None:
    key(platform, "bo")
    other = key(platform, "bo", "other:run").encode()
    question, _ = job.question(platform, rollout, "approve")
    with pytest.raises(Refused, match="may not approve"):
        job.approval_code(platform, question, approver="bo", secret=other)


def test_who_was_not_proven_is_kept_as_unknown(platform: wiring.Platform, rollout: str) -> None:
    question, _ = job.question(platform, rollout, "approve")
    with pytest.raises(Refused):
        job.approval_code(platform, question, approver="dora", secret=b"guessed")
    with pytest.raises(Refused):
        job.record_approval(platform, question, code="carla:0:9999999999:AA", reason="read it")
    kept = Refusals(platform.settings.home.audit).since(0)
    assert [r.who for r in kept] == ["unknown", "unknown"]


BO = "bo"
FORGED_MAC = "A" * 24


def attack(platform: wiring.Platform, rollout: str, kind: str) -> tuple[Question, str]:
    """A question, and a code that must not answer it."""
    question = Question(rollout, DIGEST, "approve")
    key(platform, BO)
    (own,) = (k.id for k in platform.keys.all_keys() if k.client == BO)
    made = partial(approval_codes.code, load_or_create_key(platform.settings.home.approval_key))
    now_s = platform.clock.wall_ms() // 1000
    bo, until_s = Approver(BO, own), now_s + VALID_S
    match kind:
        case "self":
            key(platform, "ana")
            (authors,) = (k.id for k in platform.keys.all_keys() if k.client == "ana")
            return question, made(Approver("ana", authors), question, until_s=until_s)
        case "self at a provider":
            account = msgspec.structs.replace(ACCOUNT, known_as=("Ana@bank.example",))
            return question, made(Approver.by_provider("jo", account), question, until_s=until_s)
        case "stale":
            return question, made(bo, replace(question, evidence="0" * 64), until_s=until_s)
        case "stale with its own question":
            stale = replace(question, evidence="0" * 64)
            return stale, made(bo, stale, until_s=until_s)
        case "replayed for another rollout":
            return question, made(bo, replace(question, rollout_id="fraud-v9-1"), until_s=until_s)
        case "replayed for another answer":
            return question, made(bo, replace(question, answer="reject"), until_s=until_s)
        case "expired":
            return question, made(bo, question, until_s=now_s - 1)
        case "unknown":
            return question, made(Approver("cy", "0a0a0a0a"), question, until_s=until_s)
        case "forged":
            return question, f"bo:{own}:{until_s}:{FORGED_MAC}"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "self",
        "self at a provider",
        "stale",
        "stale with its own question",
        "replayed for another rollout",
        "replayed for another answer",
        "expired",
        "unknown",
        "forged",
    ],
)
def test_an_attack_by_a_code_is_refused_and_recorded(
    platform: wiring.Platform, rollout: str, kind: str
) -> None:
    question, code = attack(platform, rollout, kind)
    with pytest.raises(Refused):
        job.record_approval(platform, question, code=code, reason="it was read")
    assert len(refused(platform)) == 1
    assert answers(platform, rollout) == []


def test_a_code_counts_once(platform: wiring.Platform, rollout: str) -> None:
    secret = key(platform, "bo").encode()
    approve_it, _ = job.question(platform, rollout, "approve")
    reject_it, _ = job.question(platform, rollout, "reject")
    yes, _ = job.approval_code(platform, approve_it, approver="bo", secret=secret)
    no, _ = job.approval_code(platform, reject_it, approver="bo", secret=secret)
    job.record_approval(platform, approve_it, code=yes, reason="it was read")
    job.record_approval(platform, approve_it, code=yes, reason="it was read")  # a retry
    with pytest.raises(Refused, match="was answered by bo"):
        job.record_approval(platform, reject_it, code=no, reason="it was read")
    answered = [f for f in platform.rollouts.read(rollout) if isinstance(f, Answered)]
    assert len(answered) == 1


@pytest.mark.parametrize(("code", "reason"), [("bo:1:A", "   ok   "), ("", " ")])
def test_a_form_filled_with_spaces_is_not_an_answer(
    platform: wiring.Platform, rollout: str, code: str, reason: str
) -> None:
    with pytest.raises(InputInvalid, match="characters; wanted"):
        job.record_approval(
            platform, Question(rollout, DIGEST, "approve"), code=code, reason=reason
        )
    (state,) = platform.rollouts.active("fraud")
    assert state.answer is None


def test_a_secret_goes_to_a_file_of_its_owner_alone(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wiring, "settings", lambda: platform.settings)
    words = ["keys", "create", "--name", "bo", "--model", "fraud", "--scope", "approve"]
    words += ["--to", str(tmp_path / "bo.key"), "--json"]
    shown = json.loads(CliRunner().invoke(commands.app, words).stdout)
    assert "secret" not in shown
    assert stat.S_IMODE((tmp_path / "bo.key").stat().st_mode) == 0o600
    secret = (tmp_path / "bo.key").read_bytes().strip()
    assert people(platform.keys.all_keys(), CLOCK.wall_ms() + 10**12).authenticate("bo", secret)
    again = CliRunner().invoke(commands.app, words)
    assert isinstance(again.exception, ConfigInvalid)
    assert len(platform.keys.all_keys()) == 1


def test_an_answer_of_the_journal_ends_the_form_that_asked_for_it(
    platform: wiring.Platform, rollout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FormOfPrefect(platform, rollout, "recorded")
    monkeypatch.setitem(vars(platform), "prefect", form)
    secret = key(platform, "bo").encode()
    proven = Approver("bo", key_id(secret_digest(secret)))
    question = Question(rollout, DIGEST, "approve")
    job.record_answer(platform, question, proven, reason="it was read", proven_by="session")
    job.answer_form(platform, question, proven, reason="it was read")
    assert form.now.state == "COMPLETED"
    answers = [f for f in platform.rollouts.read(rollout) if isinstance(f, Answered)]
    assert [(a.approver, a.proven_by) for a in answers] == [("bo", "session")], "and no second one"


def provider_proof(scope: str = "fraud:approve", until_s: float = 10.0**12) -> job.ProviderProof:
    client = Client("jo", frozenset({parse_scope(scope)}), "standard", None, until_s)
    return job.ProviderProof(ACCOUNT, client)


def answers(platform: wiring.Platform, rollout: str) -> list[Answered]:
    return [f for f in platform.rollouts.read(rollout) if isinstance(f, Answered)]


def test_an_answer_that_a_provider_proved_ends_the_form_that_asked_for_it(
    platform: wiring.Platform, rollout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FormOfPrefect(platform, rollout, "recorded")
    monkeypatch.setitem(vars(platform), "prefect", form)
    question = Question(rollout, DIGEST, "approve")
    given = {"reason": "it was read", "proven_by": "subject 7"}
    job.record_answer(platform, question, JO, **given, provider_proof=provider_proof())
    job.answer_form(platform, question, JO, reason="it was read")
    assert form.now.state == "COMPLETED"
    assert [(a.approver, a.identity) for a in answers(platform, rollout)] == [("jo", ACCOUNT)]


def test_a_code_of_the_page_answers_by_the_command_for_the_account_that_signed_in(
    approve: Any, platform: wiring.Platform, rollout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FormOfPrefect(platform, rollout, "recorded")
    monkeypatch.setitem(vars(platform), "prefect", form)
    question = Question(rollout, DIGEST, "approve")
    code, _ = job.code_for(platform, question, JO, provider_proof=provider_proof())
    words = ["rollouts", "approve", rollout, "--decision", "approve", "--page-code", "--json"]
    result = CliRunner().invoke(commands.app, [*words, "--reason", "it was read"], input=code)
    assert json.loads(result.stdout)["recorded"] is True
    (answer,) = answers(platform, rollout)
    assert (answer.approver, answer.identity) == ("jo", ACCOUNT)
    assert answer.proven_by == "code of subject 7 of https://login.bank.example"


def test_a_code_of_the_page_ends_with_what_proved_who_asked_for_it(
    platform: wiring.Platform, rollout: str
) -> None:
    now_s = platform.clock.wall_ms() / 1000
    question = Question(rollout, DIGEST, "approve")
    _, until_s = job.code_for(
        platform, question, JO, provider_proof=provider_proof(until_s=now_s + 60)
    )
    assert until_s <= now_s + 60
    author = Approver.by_provider("jo", msgspec.structs.replace(ACCOUNT, known_as=("ana",)))
    for who, proof in (
        (JO, provider_proof(until_s=0.0)),
        (JO, provider_proof(scope="fraud:run")),
        (JO, None),
        (author, job.ProviderProof(author.identity, provider_proof().client)),
    ):
        with pytest.raises(Refused):
            job.code_for(platform, question, who, provider_proof=proof)
    assert len(refused(platform)) == 4
    kept = Refusals(platform.settings.home.audit).since(0)
    assert {r.proof for r in kept} == {"subject 7 of https://login.bank.example"}


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        (provider_proof(scope="fraud:operate"), "no group of jo .* has scope fraud:approve"),
        (provider_proof(scope="other:approve"), "no group of jo .* has scope fraud:approve"),
        (provider_proof(until_s=0.0), "has expired: sign in again"),
    ],
)
def test_a_proof_that_has_ended_or_gives_no_scope_is_refused_and_kept(
    platform: wiring.Platform, rollout: str, proof: job.ProviderProof, why: str
) -> None:
    question = Question(rollout, DIGEST, "approve")
    given = {"reason": "it was read", "proven_by": "subject 7"}
    with pytest.raises(Refused, match=why):
        job.record_answer(platform, question, JO, **given, provider_proof=proof)
    assert len(refused(platform)) == 1


def test_an_answer_with_a_key_that_may_not_is_refused_and_kept(
    platform: wiring.Platform, rollout: str
) -> None:
    key(platform, "bo", "fraud:read")
    (without_scope,) = (k.id for k in platform.keys.all_keys())
    question = Question(rollout, DIGEST, "approve")
    for used, why in (
        (without_scope, "may not approve rollouts of fraud"),
        ("00000000", "key 00000000 of bo is not live any more"),
    ):
        with pytest.raises(Refused, match=why):
            job.record_answer(
                platform,
                question,
                Approver("bo", used),
                reason="it was read",
                proven_by="session",
            )
    assert len(refused(platform)) == 2
