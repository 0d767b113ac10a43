"""`make load-test LOAD_FLAGS="score --rate 200"`: a gateway under load, beside its objectives."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from tests.load import k6, profiles, runs
from tests.load.objectives import SURFACES
from tests.load.report import Status, lines

from mlplatform.model.folders import load_definition
from mlplatform.observing.slo import objectives
from mlplatform.operations import wiring
from mlplatform.runtime.errors import ConfigInvalid, NotFound

REPORTS = Path("build/load")
EPILOG = """Exit status: 0 every objective met, 1 one missed, 2 the test could not run, 3 k6 itself
was behind. Example: make load-test LOAD_FLAGS="score --profile day --rate 50 --seconds 240".
Every answer is a decision of that platform, in its log, its rollouts and its drift checks: use a
test installation, and a key of its own (mlplatform keys create). docs/load-tests.md."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load-test", description=__doc__, epilog=EPILOG)
    parser.add_argument("surface", choices=SURFACES)
    parser.add_argument("--model", default="fraud")
    parser.add_argument(
        "--url", action="append", help="of a gateway; several in turns (the local one)"
    )
    parser.add_argument("--key-file", type=Path, help="holds an API key with scope score")
    parser.add_argument("--ca-file", type=Path, help="certificates that https is checked by")
    parser.add_argument(
        "--confirm-host", action="append", default=[], help="host outside this machine"
    )
    parser.add_argument("--profile", choices=profiles.PROFILES, default="steady")
    parser.add_argument(
        "--rate", type=float, default=50.0, help="requests a second; of a day, at midday"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="a day is compressed to them")
    parser.add_argument(
        "--warm-up-s", type=float, default=3.0, help="at the first rate, not counted"
    )
    parser.add_argument("--items", type=int, default=20, help="requests of one batch")
    parser.add_argument("--wait-s", type=float, default=30.0, help="for the answer of async")
    parser.add_argument(
        "--entities", type=int, default=10_000, help="customers that requests are of"
    )
    parser.add_argument("--seed", type=int, default=7, help="of the requests' values")
    parser.add_argument("--json", type=Path, help=f"the report ({REPORTS}/SURFACE-PROFILE.json)")
    return parser


def load_of(arguments: argparse.Namespace) -> runs.Load:
    """The load that the arguments name.

    Raises:
        ValueError: one of them is outside its limits; says which, and what is wanted.
    """
    settings = wiring.settings()
    urls = tuple(url.rstrip("/") for url in arguments.url or [settings.gateway_url])
    for url in urls:
        check_host(url, arguments.confirm_host)
    key_file = arguments.key_file or settings.home.api_key
    if not key_file.is_file():
        raise ValueError(f"--key-file is {key_file}; wanted: a file that holds an API key")
    for name, value, most in (
        ("--items", arguments.items, runs.MAX_ITEMS),
        ("--entities", arguments.entities, 10**9),
        ("--wait-s", arguments.wait_s, 600),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}; wanted: 1 to {most}")
    if not 0 <= arguments.warm_up_s <= 600:
        raise ValueError(f"--warm-up-s is {arguments.warm_up_s:g}; wanted: 0 to 600")
    return runs.Load(
        surface=arguments.surface,
        urls=urls,
        key_file=key_file,
        stages=profiles.stages(
            arguments.profile, rate_per_s=arguments.rate, seconds=arguments.seconds
        ),
        warm_up_s=arguments.warm_up_s,
        items=arguments.items if arguments.surface == "batch" else 1,
        entities=arguments.entities,
        wait_s=arguments.wait_s,
        seed=arguments.seed,
        ca_file=arguments.ca_file,
    )


def check_host(url: str, confirmed: list[str]) -> None:
    """Refuses a gateway of another machine that was not named twice.

    Raises:
        ValueError: says what to add.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--url is {url!r}; wanted: http://HOST:PORT or https://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError("--url holds a password; wanted: none, the key stands in --key-file")
    if _is_local(parts.hostname) or parts.hostname in confirmed:
        return
    raise ValueError(
        f"--url is on another machine, {parts.hostname}, and every answer becomes a decision in its"
        f" log; wanted: --confirm-host {parts.hostname} beside it, if that is a test installation"
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> int:
    arguments = parser().parse_args()
    try:
        load = load_of(arguments)
        model = load_definition(arguments.model)
        program = k6.build()
        found = runs.run(load, model, objectives.load(objectives.SHIPPED), program)
    except (ValueError, ConfigInvalid, NotFound, k6.Unavailable, k6.Failed) as error:
        print(f"load-test: {error}", file=sys.stderr)
        return Status.UNUSABLE
    target = arguments.json or REPORTS / f"{arguments.surface}-{arguments.profile}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "load_average": [round(v, 2) for v in os.getloadavg()]}
    document = {**msgspec.to_builtins(found), "status": found.status.name.lower(), **machine}
    target.write_text(json.dumps(document, indent=2) + "\n")
    print("\n".join(lines(found)))
    print(f"\n{found.status.name.lower().replace('_', ' ')}; report: {target}")
    return found.status


if __name__ == "__main__":
    sys.exit(main())
