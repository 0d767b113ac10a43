"""docs/events.md says of every event what the code does, and its code verifies a signature."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Final

import pytest

from mlplatform.observing.events import receivers, signature
from mlplatform.rollouts.events.event import TYPES, event_of
from mlplatform.rollouts.journal.journal import JournalFact
from mlplatform.rollouts.journal.transitions import ApprovalAsked

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


def test_the_document_lists_every_type() -> None:
    rows = re.findall(r"^\| `(mlplatform\.[\w.-]+)` \| (.*) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert rows == [(kind.name, kind.meaning, kind.action) for kind in TYPES]


def test_the_example_is_an_event_of_the_code() -> None:
    shown = json.loads(block("json"))
    fact = ApprovalAsked(
        rollout_id=shown["subject"],
        model="fraud",
        event_ms=0,
        wall_ms=1_795_771_800_000,
        actor="pass 1",
        reason=shown["data"]["reason"],
    )
    made = event_of(JournalFact(17, "5d2c0a4be81f93d7" + "0" * 48, fact), shown["source"], str)
    expected = made.to_structured()
    for found in (shown, expected):
        del found["data"]["evidence_digest"]
    assert shown == expected


def test_the_code_of_the_document_verifies_a_signature(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    is_ours = names["is_ours"]
    file = tmp_path / "secret"
    file.write_text(SECRET)
    secrets = [signature.secret(file), b"n" * 32]
    headers = signature.signed(secrets, "rollout-17-5d2c", int(time.time()), b"{}")
    assert is_ours(SECRET, headers, b"{}")
    assert not is_ours(SECRET, headers, b"{ }")
    assert not is_ours(f"whsec_{'A' * 32}", headers, b"{}")
    old = signature.signed(secrets, "rollout-17-5d2c", int(time.time()) - 301, b"{}")
    assert not is_ours(SECRET, old, b"{}")


def test_the_code_of_the_document_has_ten_lines() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 10


def test_the_file_of_the_document_is_taken(tmp_path: Path) -> None:
    (tmp_path / "risk.secret").write_text(SECRET)
    (tmp_path / "slack.url").write_text("https://hooks.slack.example/services/x")
    (tmp_path / "bank-ca.pem").touch()
    found = receivers.parse(block("yaml"), tmp_path / "receivers.yaml", "http://127.0.0.1:8090")
    assert [one.kind for one in found.receivers] == ["webhook", "slack"]
    with pytest.raises(Exception, match="bank-ca"):
        receivers.parse(block("yaml").replace("bank-ca", "no/bank-ca"), tmp_path / "r.yaml", "")
