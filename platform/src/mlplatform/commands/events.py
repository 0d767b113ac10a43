"""Commands about the receivers of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mlplatform.commands.terminal.output import AsJson, print_json, print_table
from mlplatform.observing.events import signature
from mlplatform.observing.events.receivers import Receiver, declared_receivers, host, receiver_named
from mlplatform.observing.events.sender import DeliverySuccess
from mlplatform.observing.events.wiring import sender
from mlplatform.operations import wiring
from mlplatform.rollouts.events.event import event_of_test
from mlplatform.rollouts.events.positions import Progress
from mlplatform.rollouts.events.stream import Lag
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import InputInvalid, Unavailable
from mlplatform.runtime.times import rfc3339_text
from mlplatform.runtime.units import HOUR_MS, MIB

MOST_HOURS = 24 * 366
MOST_BODY_BYTES = MIB

app = typer.Typer(
    help="Events of rollouts and incidents, and who gets them (docs/events.md).",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="A receiver's name, as its file has it.")]


@app.command()
def receivers(json: AsJson = False) -> None:
    """List every receiver: where it is, what waits for it, and how its last delivery ended.

    Example: mlplatform events receivers
    """
    rows = list(_rows())
    if json:
        print_json(rows)
        return
    columns = ("receiver", "kind", "host", "state", "waiting", "oldest", "delivered", "failed")
    cells = [[row[c] if row[c] is not None else "" for c in columns] for row in rows]
    problems = [row["failure"] for row in rows]
    print_table(
        (*columns, "last failure"),
        [[*row, why] for row, why in zip(cells, problems, strict=True)],
        prose="last failure",
    )


@app.command("test")
def send_test(name: Name, json: AsJson = False) -> None:
    """Send one event of type mlplatform.test to a receiver now, and show its answer.

    Example: mlplatform events test risk-desk
    """
    settings = wiring.settings()
    receiver = receiver_named(settings, name)
    event = event_of_test(name, declared_receivers(settings).page, SystemClock().wall_ms())
    tried = asyncio.run(sender().send(receiver, event))
    if not isinstance(tried, DeliverySuccess):
        raise Unavailable(f"{name} did not take {event.id}: {tried.why}")
    if json:
        print_json({"receiver": name, "id": event.id, "taken": True})
    else:
        typer.echo(f"{name} took {event.id}")


@app.command()
def replay(
    name: Name,
    hours: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_HOURS,
            help="Send the events of this many hours again, with the same ids. 0: skip what "
            "waits. Default: continue where sending stopped.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Move a receiver to an earlier or later event, or start a stopped one again.

    A process that waits before its next attempt notices it within two minutes.

    Example: mlplatform events replay risk-desk --hours 24
    """
    stream = wiring.existing_platform().stream
    to = None
    if hours is not None:
        since_ms = SystemClock().wall_ms() - hours * HOUR_MS
        to = stream.before(since_ms) if hours else stream.head()
    stream.positions.move(name, to)
    waits = next(stream.waiting(p.at) for p in stream.positions.list() if p.receiver == name)
    if json:
        print_json({"receiver": name, "waiting": waits.facts})
    else:
        typer.echo(f"{name} gets {waits.facts} events")


@app.command()
def verify(
    body: Annotated[Path, typer.Argument(help="A file with the body, byte for byte.")],
    secret_file: Annotated[
        Path, typer.Option(help="A file with the secret that should have signed it.")
    ],
    webhook_id: Annotated[str, typer.Option(help="The header webhook-id.")],
    webhook_timestamp: Annotated[str, typer.Option(help="The header webhook-timestamp.")],
    webhook_signature: Annotated[str, typer.Option(help="The header webhook-signature.")],
    at: Annotated[
        int | None, typer.Option(help="Unix time at which the body arrived. Default: now.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check whether a body that a webhook received is from this platform.

    Example: mlplatform events verify body.json --secret-file risk.secret --webhook-id
    rollout-7-5d2c… --webhook-timestamp 1790000000 --webhook-signature v1,…
    """
    headers = {
        signature.ID: webhook_id,
        signature.TIMESTAMP: webhook_timestamp,
        signature.SIGNATURE: webhook_signature,
    }
    now_s = time.time() if at is None else at
    signature.verify([signature.secret(secret_file)], headers, _bytes(body), now_s=now_s)
    if json:
        print_json({"id": webhook_id, "verified": True})
    else:
        typer.echo(f"{webhook_id}: the signature is right")


def _rows() -> Iterator[dict[str, Any]]:
    platform = wiring.existing_platform()
    known = declared_receivers(platform.settings).receivers
    lags = {lag.progress.receiver: lag for lag in platform.stream.lags()}
    for receiver in known:
        yield _row(receiver, lags.get(receiver.name))


def _row(receiver: Receiver, lag: Lag | None) -> dict[str, Any]:
    at = None if lag is None else lag.progress
    waits = None if lag is None else lag.waiting
    oldest_ms = None if waits is None else waits.since_ms
    return {
        "receiver": receiver.name,
        "kind": receiver.kind,
        "host": host(receiver),
        "state": _state(at),
        "waiting": None if waits is None else waits.facts,
        "oldest": None if oldest_ms is None else rfc3339_text(oldest_ms),
        "delivered": 0 if at is None else at.delivered,
        "failed": 0 if at is None else at.failed,
        "failure": "" if at is None else at.stopped or at.failure,
    }


def _state(at: Progress | None) -> str:
    if at is None:
        return "waits for the process `events`"
    return "stopped" if at.stopped else "failing" if at.failure else "ok"


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            found = opened.read(MOST_BODY_BYTES + 1)
    except OSError as error:
        raise InputInvalid(str(file), None, f"can't be read: {error.strerror}") from error
    if len(found) > MOST_BODY_BYTES:
        raise InputInvalid(str(file), None, f"more than {MOST_BODY_BYTES} bytes")
    return found
