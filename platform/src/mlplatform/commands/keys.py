"""Commands that make, list and revoke the keys of applications and of people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlplatform.commands.terminal.output import AsJson, print_fields, print_json, print_table
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.storage.files import create_atomically
from mlplatform.runtime.times import iso_second_text
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.admission.clients import Key, check_client, parse_scope, rate_limit
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.priorities import PRIORITIES, Priority

MAX_EXPIRY_DAYS = 3650

app = typer.Typer(help="Keys of applications and of people.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="The client's name. A client may have several keys.")],
    model: Annotated[list[str], typer.Option(help="A model it may use; * for every one.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="score, read, labels, void, push (values of external views), any-client (labels, "
            "voids and explanations of every client's decisions), any-version (scores by a "
            "version that the request names), explain (why decisions came out so), metrics (model "
            "*) or * (all of these). Of people: view (sign in to look), review (say how decisions "
            "turned out), operate (stop and start what runs), run (start flows, and operate), "
            "approve (rollouts)."
        ),
    ],
    priority: Annotated[str, typer.Option(help=f"One of {', '.join(PRIORITIES)}.")] = "standard",
    rate: Annotated[
        float | None, typer.Option(help="Requests per second. Default: no limit.")
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(help="The most requests at once. Default: as many as --rate gives a second."),
    ] = None,
    expires_days: Annotated[int | None, typer.Option(help="Days until the key ends.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write the secret to this new file, which only you can read; do not show it."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Make a key and show its secret once. Running gateways accept it within a second.

    The newest valid key of a client sets its priority and limits. With a person's key its owner
    signs in to the platform's page and logs in to Prefect.

    Example: mlplatform keys create --name shop --model fraud --scope score --rate 200
    """
    for one in model:
        if one != "*":
            model_folder(one)
    now_ms = SystemClock().wall_ms()
    if to is not None and to.exists():
        raise ConfigInvalid("--to", str(to), "a file that is not there yet")
    allowed: dict[str, Any] = {
        "priority": _priority(priority),
        "limit": rate_limit(rate, burst),
        "expires_ms": _expires_ms(now_ms, expires_days),
    }
    scopes = frozenset(parse_scope(f"{m}:{s}") for m in model for s in scope)
    client = check_client(name)
    keys = wiring.opened_platform().keys  # last: what is wrong above makes no store
    key, secret = create_key(keys, client, scopes, now_ms=now_ms, **allowed)
    shown = _fields_of(key, now_ms) | ({"secret": secret} if to is None else {"secret in": str(to)})
    if to is not None:
        create_atomically(to.absolute(), f"{secret}\n".encode())
    if json:
        print_json(shown)
    else:
        print_fields(shown | {"scopes": " ".join(shown["scopes"])})


@app.command("list")
def list_keys(json: AsJson = False) -> None:
    """List every key ever made, with what it allows and whether it is still valid; never a secret.

    Example: mlplatform keys list
    """
    now_ms = SystemClock().wall_ms()
    rows = [_fields_of(key, now_ms) for key in wiring.existing_platform().keys.all_keys()]
    if json:
        print_json(rows)
        return
    columns = ("id", "client", "state", "scopes", "priority", "rate_per_s", "burst", "expires")
    print_table(columns, [[_cell(row[c]) for c in columns] for row in rows])


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A key's id, or a client: then all its keys.")],
    json: AsJson = False,
) -> None:
    """Revoke a key or all keys of a client. Running gateways refuse them within a second.

    Example: mlplatform keys revoke shop
    """
    now_ms = SystemClock().wall_ms()
    revoked = [key.id for key in wiring.existing_platform().keys.revoke(name, now_ms)]
    if json:
        print_json({"revoked": revoked})
    else:
        typer.echo(f"revoked: {', '.join(revoked) or 'no key, as all were revoked before'}")


def _priority(text: str) -> Priority:
    for priority in PRIORITIES:
        if text == priority:
            return priority
    raise ConfigInvalid("priority", text, f"one of {', '.join(PRIORITIES)}")


def _expires_ms(now_ms: int, days: int | None) -> int | None:
    if days is None:
        return None
    if not 1 <= days <= MAX_EXPIRY_DAYS:
        raise ConfigInvalid("--expires-days", days, f"1 to {MAX_EXPIRY_DAYS}")
    return now_ms + days * DAY_MS


def _fields_of(key: Key, now_ms: int) -> dict[str, Any]:
    state = "live" if key.is_live(now_ms) else "revoked" if key.revoked_ms else "expired"
    return {
        "id": key.id,
        "client": key.client,
        "state": state,
        "scopes": sorted(map(str, key.scopes)),
        "priority": key.priority,
        "rate_per_s": key.limit.rate_per_s if key.limit else None,
        "burst": key.limit.burst if key.limit else None,
        "created": iso_second_text(key.created_ms),
        "expires": None if key.expires_ms is None else iso_second_text(key.expires_ms),
        "revoked": None if key.revoked_ms is None else iso_second_text(key.revoked_ms),
    }


def _cell(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value
