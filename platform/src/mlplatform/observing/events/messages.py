"""An event in a receiver's form: a signed CloudEvent, or a message for Slack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.observing.events import signature
from mlplatform.observing.events.receivers import Receiver
from mlplatform.rollouts.events.event import CloudEvent
from mlplatform.runtime.canonical import canonical_json

CLOUD_EVENT: Final = "application/cloudevents+json; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"
AGENT: Final = "mlplatform-events"
MOST_HEADING, MOST_TEXT = 150, 2900
"""Most characters of a heading and of a text."""


@dataclass(frozen=True, slots=True)
class Message:
    """The request to be posted. Headers and body hold no secret, only what was made with one."""

    headers: Mapping[str, str]
    body: bytes


def message(receiver: Receiver, event: CloudEvent, now_s: int) -> Message:
    """The message of an event for a receiver.

    Args:
        now_s: time of this attempt, epoch seconds.

    Raises:
        ConfigInvalid: a file of the receiver's secrets can't be read any more.
    """
    if receiver.kind == "slack":
        body = canonical_json(slack(event))
        return Message({"content-type": JSON, "user-agent": AGENT}, body)
    body = canonical_json(event.to_structured())
    secrets = [signature.secret(file) for file in receiver.secret_files]
    signed = signature.signed(secrets, event.id, now_s, body)
    return Message({"content-type": CLOUD_EVENT, "user-agent": AGENT, **signed}, body)


def slack(event: CloudEvent) -> dict[str, Any]:
    """The event in the form of Slack's incoming webhooks.

    Source: Slack, "Sending messages using incoming webhooks", and "Formatting text", escaping.
    """
    kind, data = event.type, event.data
    model = f"{data['model']}: " if data["model"] else ""
    heading = f"{model}{kind.meaning}"
    lines = [event.subject]
    lines += [f"Why: {data['reason']}"] if data["reason"] else []
    lines += [f"To do: {kind.action}"] if kind.action else []
    return {
        "text": escaped(f"{heading} ({event.subject})"),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "header", "text": _plain(heading, MOST_HEADING)},
            {"type": "section", "text": _plain("\n".join(lines), MOST_TEXT)},
            {"type": "section", "text": {"type": "mrkdwn", "text": _link(data["link"])}},
            {"type": "context", "elements": [_plain(f"{kind.name} {event.id}", MOST_TEXT)]},
        ],
    }


def escaped(text: str) -> str:
    """A text in which Slack finds no mention and no link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str, most: int) -> dict[str, Any]:
    shown = text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return {"type": "plain_text", "text": shown, "emoji": False}


def _link(url: str) -> str:
    safe = url.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    return f"<{safe}|Open the platform's page>"
