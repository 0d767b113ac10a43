"""What is told of a fact, to whom, in which form, and what may be wrong with a receivers' file."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.routes import Variant
from mlplatform.observing.events import signature
from mlplatform.observing.events.addresses import refusal
from mlplatform.observing.events.messages import escaped, message, slack
from mlplatform.observing.events.receivers import NAMES, Receiver, parse
from mlplatform.observing.events.retries import LONGEST_ASKED_S, LONGEST_S, delay_s, retry_after_s
from mlplatform.observing.events.sender import DeliveryFailure, HttpSender
from mlplatform.rollouts.drift.incidents import Change, IncidentFact
from mlplatform.rollouts.events.event import TEST, TYPES, CloudEvent, event_of, event_of_test
from mlplatform.rollouts.journal import controls, transitions
from mlplatform.rollouts.journal.journal import JournalFact
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Opened,
    Paused,
    RolledBack,
    Transition,
)
from mlplatform.runtime.errors import ConfigInvalid, Refused
from mlplatform.runtime.telemetry.redaction import FieldPolicy
from rollout_world import arm

PAGE = "https://platform.bank.example"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SLACK = "https://hooks.slack.example/services/T0/B0/verysecret"
FACTS: dict[str, Any] = {
    "rollout_id": "fraud-v2-1",
    "model": "fraud",
    "event_ms": 1,
    "wall_ms": 1_790_000_000_123,
    "actor": "pass 7",
    "reason": "alerts 3.1 % against 1.2 %",
    "evidence": {"customers": 4711, "verdict": "UNHEALTHY"},
}
OF_KINDS: dict[str, dict[str, Any]] = {
    "Opened": {
        "challenger": arm(2), "author": "ann", "alert_low": 0.0, "alert_high": 0.1,
        "bootstrap": False,
    },
    "ShadowStarted": {"displaced": None},
    "Answered": {"answer": "approve", "approver": "bo", "bound_to": "d1"},
    "CanaryStepped": {"step": 1, "percent": 25.0},
    "Promoted": {"predecessor": None},
}  # fmt: skip
OF_CONTROLS: dict[str, dict[str, Any]] = {
    "VariantsStarted": {"champion": arm(2), "variants": (), "days": 14.0},
    "VariantsAnswering": {"generation": 9},
    "VariantsRaised": {"variants": (Variant(arm(1), 20.0, ((0, 2000),)),)},
    "VariantRemoved": {"version": 1, "service": arm(1).service},
}


def made(kind: type[Any], **changes: Any) -> Any:
    return kind(**FACTS | OF_KINDS.get(kind.__name__, {}) | changes)


def control(kind: type[Any]) -> Any:
    fields = {"model": "fraud", "event_ms": 1, "wall_ms": 2, "actor": "cy"}
    if kind.__name__.startswith("Variant"):
        fields |= {"test_id": "fraud-variants-1"} | OF_CONTROLS.get(kind.__name__, {})
    return kind(**fields, reason="for Eve 4711")


def told(transition: Any, redacted: Any = str) -> CloudEvent:
    return event_of(JournalFact(17, "5d2c0a4be81f93d7aa", transition), PAGE, redacted)


def incident(state: Any, note: str = "psi 0.4") -> CloudEvent:
    change = Change(2, 1_790_000_000_000, state, 1, "retrain-1", note)
    return event_of(IncidentFact(5, "fraud-drift-1", "fraud", "drift", 3, change), PAGE, str)


def test_every_fact_has_a_type_of_its_own_and_every_type_a_fact() -> None:
    rollouts = {told(made(kind)).type for kind in get_args(transitions.Transition)}
    rollouts.add(told(made(Answered, answer="reject")).type)
    rollouts.add(told(made(Opened, emergency=True)).type)
    rollouts |= {told(control(kind)).type for kind in get_args(controls.Control)}
    incidents = {incident(state).type for state in ("open", "claimed", "answered", "closed")}
    assert rollouts | incidents == set(TYPES) - {TEST}
    assert len({kind.name for kind in TYPES}) == len(TYPES)


def test_the_reason_of_a_test_is_told_where_a_pass_wrote_it_and_not_what_people_typed() -> None:
    for kind, reason in (
        (controls.VariantsStarted, ""),
        (controls.VariantsRaised, ""),
        (controls.VariantsEnded, ""),
        (controls.VariantsAnswering, "for Eve 4711"),
        (controls.VariantRemoved, "for Eve 4711"),
    ):
        event = told(control(kind))
        assert (event.subject, event.data["test"]) == ("fraud", "fraud-variants-1")
        assert event.data["reason"] == reason
    assert told(control(controls.VariantRemoved)).data["version"] == 1
    assert told(control(controls.VariantsRaised)).data["percent_by_version"] == {"1": 20.0}


def test_an_event_is_a_cloud_event_that_leads_to_the_page() -> None:
    found = told(made(CanaryStepped)).to_structured()
    assert found == {
        "specversion": "1.0",
        "id": "rollout-17-5d2c0a4be81f93d7",
        "source": PAGE,
        "type": "mlplatform.rollout.canary-stepped",
        "subject": "fraud-v2-1",
        "time": "2026-09-21T14:13:20.123Z",
        "datacontenttype": "application/json",
        "data": {
            "meaning": "A challenger answers a share of the customers",
            "action": "",
            "model": "fraud",
            "reason": "alerts 3.1 % against 1.2 %",
            "link": f"{PAGE}/rollouts/fraud-v2-1",
            "step": 1,
            "percent": 25.0,
        },
    }
    assert incident("open").data["link"] == f"{PAGE}/incidents/fraud-drift-1"


def test_an_approval_is_asked_with_what_to_do_and_what_it_is_bound_to() -> None:
    asked = told(made(ApprovalAsked))
    assert "approve or reject" in asked.to_structured()["data"]["action"]
    assert asked.data["evidence_digest"] == made(ApprovalAsked).evidence_digest


@pytest.mark.parametrize(
    "transition",
    [
        pytest.param(made(Opened, reason="for Eve 4711"), id="who opens"),
        pytest.param(made(Answered, reason="for Eve 4711"), id="who answers"),
        pytest.param(
            made(RolledBack, actor="pass 7", evidence={}, reason="rejected by bo: Eve 4711"),
            id="who rejects, told by a pass",
        ),
        pytest.param(
            made(CanaryStepped, evidence={}, reason="approved by bo: for Eve 4711"),
            id="who approves, told by a pass",
        ),
        pytest.param(
            made(RolledBack, actor="pass", evidence={}, reason="Eve 4711"), id="who takes back"
        ),
        pytest.param(made(Paused, actor="cy", reason="for Eve 4711"), id="who pauses"),
        pytest.param(control(controls.Killed), id="who switches a model off"),
    ],
)
def test_what_people_typed_and_their_names_are_at_the_page_alone(transition: Transition) -> None:
    text = json.dumps(told(transition).to_structured())
    for personal in ("Eve", "4711", '"ann"', '"bo"', '"cy"', "pass 7"):
        assert personal not in text


def test_personal_values_are_taken_out_of_what_the_platform_wrote() -> None:
    redacted = FieldPolicy(["customer_id"]).applied
    event = told(made(RolledBack, reason="no row for customer_id=C-4711, tried twice"), redacted)
    assert event.data["reason"] == "no row for customer_id=[redacted], tried twice"


def test_a_reason_is_cut() -> None:
    assert len(told(made(RolledBack, reason="x" * 10_000)).data["reason"]) == 500


def test_an_id_is_of_the_fact_alone() -> None:
    assert told(made(RolledBack)).id == told(made(RolledBack)).id
    other = event_of(JournalFact(17, "0d2c0a4be81f93d7aa", made(RolledBack)), PAGE, str)
    assert other.id != told(made(RolledBack)).id  # of a journal that went another way
    ids = {incident(state).id for state in ("open", "closed")}
    assert ids == {"incident-5-fraud-drift-1-2-1790000000000"}


# Signatures.


def test_a_signature_is_that_of_the_standard(tmp_path: Path) -> None:
    """Source: the example of Standard Webhooks' reference libraries."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    headers = signature.signed(
        [signature.secret(file)],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(
    st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=2),
    st.binary(max_size=200),
    st.integers(0, 2**31),
)
def test_each_secret_verifies_and_no_other(secrets: list[bytes], body: bytes, at_s: int) -> None:
    headers = signature.signed(secrets, "rollout-1-ab", at_s, body)
    for one in secrets:
        signature.verify([one], headers, body, now_s=at_s + 299.0)
    for wrong in (
        lambda: signature.verify([b"x" * 65], headers, body, now_s=at_s),
        lambda: signature.verify(secrets, headers, body + b" ", now_s=at_s),
        lambda: signature.verify(
            secrets, headers | {"webhook-id": "rollout-1-ac"}, body, now_s=at_s
        ),
        lambda: signature.verify(secrets, headers, body, now_s=at_s + 301.0),
        lambda: signature.verify(secrets, {}, body, now_s=at_s),
    ):
        with pytest.raises(Refused):
            wrong()


@pytest.mark.parametrize(
    "text", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!!", "whsec_\xff"]
)
def test_a_secret_that_is_none_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigInvalid, match="a secret file is") as refused:
        signature.secret(file)
    assert not text or text not in str(refused.value)


def webhook(tmp_path: Path, *secrets: str) -> Receiver:
    files = tuple(tmp_path / f"{number}.secret" for number in range(len(secrets)))
    for file, secret in zip(files, secrets, strict=True):
        file.write_text(secret)
    url = "https://risk.bank.example/hook"
    return Receiver("desk", "webhook", url, None, files, frozenset(NAMES))


def test_a_webhook_s_body_is_signed_by_both_secrets_while_one_is_changed(tmp_path: Path) -> None:
    new = f"whsec_{base64.b64encode(b'n' * 32).decode()}"
    event = told(made(RolledBack))
    sent = message(webhook(tmp_path, SECRET, new), event, 1_790_000_000)
    assert json.loads(sent.body) == event.to_structured()
    assert sent.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert sent.headers["webhook-id"] == event.id
    signed = b".".join((event.id.encode(), b"1790000000", sent.body))
    expected = [
        hmac.new(base64.b64decode(one.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        for one in (SECRET, new)
    ]
    given = sent.headers["webhook-signature"].split(" ")
    assert [base64.b64decode(one.removeprefix("v1,")) for one in given] == expected


# Slack.


def test_slack_gets_text_that_is_no_markup_and_one_link() -> None:
    event = told(made(RolledBack, reason="<!channel> *now* <https://evil.example|x> & `y`"))
    found = slack(event)
    assert found["text"] == (
        "fraud: A rollout was rolled back: its version answers no customers any more (fraud-v2-1)"
    )
    assert found["mrkdwn"] is False
    kinds = [block.get("text", {}).get("type") for block in found["blocks"]]
    assert kinds == ["plain_text", "plain_text", "mrkdwn", None]
    link = found["blocks"][2]["text"]["text"]
    assert link == f"<{PAGE}/rollouts/fraud-v2-1|Open the platform's page>"
    assert "To do: See why" in found["blocks"][1]["text"]["text"]


@given(st.text(max_size=50))
def test_no_text_makes_a_mention_or_a_link(text: str) -> None:
    shown = escaped(text)
    assert "<" not in shown
    assert ">" not in shown
    back = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert back == text


def test_no_message_is_longer_than_slack_takes() -> None:
    event = told(made(RolledBack))
    long = dataclasses.replace(
        event, data={**event.data, "model": "m" * 5000, "reason": "r" * 5000}
    )
    heading, text = (block["text"]["text"] for block in slack(long)["blocks"][:2])
    assert (len(heading), len(text)) == (150, 2900)


# The file.


def write(folder: Path, text: str) -> tuple[Receiver, ...]:
    (folder / "risk.secret").write_text(SECRET)
    (folder / "slack.url").write_text(f"{SLACK}\n")
    return parse(text, folder / "receivers.yaml", PAGE).receivers


GOOD = """
receivers:
  - name: risk-desk
    kind: webhook
    url: https://risk.bank.example/hooks/mlplatform
    secret_files: [risk.secret]
    types: [mlplatform.rollout.approval-asked]
  - name: channel
    kind: slack
    url_file: slack.url
"""


def test_a_file_of_receivers(tmp_path: Path) -> None:
    desk, channel = write(tmp_path, GOOD)
    assert desk.secret_files == (tmp_path / "risk.secret",)
    assert desk.types == {"mlplatform.rollout.approval-asked"}
    assert (channel.address(), channel.types) == (SLACK, frozenset(NAMES))


def test_links_lead_to_where_people_open_the_page(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    file = tmp_path / "receivers.yaml"
    assert parse(GOOD, file, PAGE).page == PAGE
    named = f"page: https://ml.bank.example/platform\n{GOOD}"
    assert parse(named, file, PAGE).page == "https://ml.bank.example/platform"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        write(
            tmp_path,
            """
page: bank/x?y
receivers:
  - {name: Desk!, kind: webhook, url: "http://risk.bank.example/x", secret_files: [no.secret]}
  - {name: b, kind: webhook, url: "https://u:pw@risk.bank.example/?key=k", secret_files: []}
  - {name: b, kind: slack, url: "https://hooks.slack.example/services/key"}
  - {name: c, kind: email, types: [mlplatform.rollout.rolledback], colour: red}
  - 7
""",
        )
    lines = str(refused.value).split("\n  ")[1:]
    assert lines.pop(-2) == "page is 'bank/x?y'; wanted: https://host, where people open the page"
    beginnings = [
        "receivers.0.name is 'Desk!'; wanted:",
        "receivers.0.url is 'http://risk.bank.example/x'; wanted: an https URL",
        "receivers.0.secret_files.0: a secret file is",
        "receivers.1.url is 'not shown'; wanted: an https URL",
        "receivers.1.secret_files is []; wanted: a list of one file",
        "receivers.2.url is set; wanted: url_file",
        "receivers.2.url_file is None; wanted: a file",
        "receivers.3.colour is not known; wanted:",
        "receivers.3.kind is 'email'; wanted: webhook or slack",
        "receivers.3.types has 'mlplatform.rollout.rolledback'; wanted: mlplatform.rollout.rolled",
        "receivers.4 is 7; wanted: keys",
        "receivers.2.name is 'b'; wanted: another one",
    ]
    assert len(lines) == len(beginnings)
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning)
    assert "pw" not in str(refused.value)
    assert "services/key" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "receivers: []", "receivers: 3", "a: [", "receivers: [&a {}]", "other: []\nreceivers: []"],
)
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_RECEIVERS"):
        write(tmp_path, text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://hooks.slack.example/x",
        "https://a.example/x https:",
        "https://a.example:70000/x",
        "https://ä.example/x",
    ],
)
def test_a_slack_url_that_is_none_is_not_shown(url: str, tmp_path: Path) -> None:
    (tmp_path / "bad.url").write_text(url)
    text = "receivers: [{name: a, kind: slack, url_file: bad.url}]"
    with pytest.raises(ConfigInvalid, match=r"receivers\.0\.url_file") as refused:
        write(tmp_path, text)
    assert not url or url not in str(refused.value)


# Addresses and retries.


@pytest.mark.parametrize(
    ("address", "loopback", "allowed"),
    [
        pytest.param("93.184.216.34", False, True, id="a public one"),
        pytest.param("10.1.2.3", False, True, id="one of the bank's"),
        pytest.param("2001:db8:1::1", False, True, id="IPv6"),
        pytest.param("127.0.0.1", True, True, id="this machine, by its own words"),
        pytest.param("127.0.0.1", False, False, id="this machine by another name"),
        pytest.param("::1", False, False, id="the same, IPv6"),
        pytest.param("::ffff:127.0.0.1", False, False, id="the same, mapped"),
        pytest.param("64:ff9b::7f00:1", False, False, id="the same, by NAT64"),
        pytest.param("10.1.2.3", True, False, id="localhost that is elsewhere"),
        pytest.param("169.254.169.254", False, False, id="metadata"),
        pytest.param("::ffff:169.254.169.254", False, False, id="metadata, mapped"),
        pytest.param("2002:a9fe:a9fe::1", False, False, id="metadata, by 6to4"),
        pytest.param("64:ff9b::a9fe:a9fe", False, False, id="metadata, by NAT64"),
        pytest.param("fd00:ec2::254", False, False, id="metadata, IPv6"),
        pytest.param("100.100.100.200", False, False, id="metadata of another cloud"),
        pytest.param("fe80::1%eth0", False, False, id="link-local"),
        pytest.param("0.0.0.0", False, False, id="none"),
        pytest.param("::", False, False, id="none, IPv6"),
        pytest.param("224.0.0.1", False, False, id="many"),
        pytest.param("255.255.255.255", False, False, id="all"),
    ],
)
def test_where_events_may_go(address: str, loopback: bool, allowed: bool) -> None:
    assert (refusal(address, loopback=loopback) == "") is allowed


@given(st.integers(1, 1000), st.floats(0, 1), st.none() | st.floats(0, 1e6))
def test_a_wait_grows_up_to_a_limit_and_is_never_shorter_than_asked(
    failures: int, jitter: float, asked: float | None
) -> None:
    wait_s = delay_s(failures, jitter, asked)
    assert wait_s >= min(asked or 0.0, LONGEST_ASKED_S)
    assert 0.5 <= wait_s <= max(LONGEST_S, LONGEST_ASKED_S)
    assert delay_s(failures + 1, jitter, asked) >= wait_s


def test_the_first_waits_double() -> None:
    assert [delay_s(n, 1.0) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    assert delay_s(1, 0.0) == 0.5


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("7", 7.0),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10.0),
        ("Mon, 21 Sep 2020 14:13:30 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("9" * 400, None),
    ],
)
def test_what_a_retry_after_asks_for(header: str, wanted: float | None) -> None:
    assert retry_after_s(header, 1_790_000_000.0) == wanted


# What is never written.


def test_slack_s_url_is_in_no_line_and_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "slack.url"
    file.write_text("http://127.0.0.1:1/services/verysecret")
    channel = Receiver("channel", "slack", "", file, (), frozenset(NAMES))
    caplog.set_level(logging.INFO)
    tried = asyncio.run(HttpSender().send(channel, event_of_test("channel", PAGE, 1)))
    assert isinstance(tried, DeliveryFailure)
    assert "verysecret" not in tried.why + caplog.text
    assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING  # it logs urls at INFO


def test_a_secret_that_is_gone_is_a_failure_and_no_end(tmp_path: Path) -> None:
    desk = webhook(tmp_path, SECRET)
    desk.secret_files[0].unlink()
    tried = asyncio.run(HttpSender().send(desk, event_of_test("desk", PAGE, 1)))
    assert isinstance(tried, DeliveryFailure)
    assert "a secret file is" in tried.why
