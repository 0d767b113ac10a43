"""Log-ins at Prefect's door: whose name and key let in, and who may make a browser use them."""

from __future__ import annotations

import base64
import time
from typing import Final

from tests.drills.attacks.attack import PREFECT, Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import VERSION, ask, asks_who, credentials, is_let_in, raw

TRIES: Final = 60
GRACE_S: Final = 25.0
"""More than a stranger has for a request."""
RESUMED: Final = "/api/flow_runs/{run}/resume"


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "log-in, a key of another person's",
            "high",
            "name bo with eve's key, eve with a key that nobody has, a revoked one, none; operator "
            "and platform with eve's key or none; other spellings of names",
            "401",
            wrong_keys,
            PREFECT,
        ),
        Attack(
            "log-in, an application's key",
            "high",
            "the key of an application that has score, labels and void, by each name",
            "401: a person's scopes are run and approve",
            applications_key,
            PREFECT,
        ),
        Attack(
            "log-in, tokens guessed again and again",
            "medium",
            f"{TRIES} tokens for operator and platform, one after the other",
            "401 to each; the file of refusals stays bounded",
            guessed,
            PREFECT,
        ),
        Attack(
            "log-in, headers that are nearly credentials",
            "high",
            "Authorization twice, with other schemes, no base64, no colon, NUL, 64 KB, other "
            "encodings, in a cookie, in the query, as a password in the address",
            "400, 401 or 431",
            nearly,
        ),
        Attack(
            "log-in, tokens of other servers",
            "high",
            "eve's key at page and MLflow, and page's, MLflow's and the predictors' tokens at "
            "Prefect",
            "401",
            other_tokens,
            PREFECT,
            by_operator=True,
        ),
        Attack(
            "log-in, a victim's browser used by another site",
            "high",
            "reads and writes with eve's credentials and a foreign Origin, Origin null, the origin "
            "of another port, as form, text and JSON; and a page that frames or scripts the server",
            "403 to each",
            cross_site,
        ),
        Attack(
            "log-in, a body without end",
            "medium",
            "a POST of 8 MB as nobody and as eve, and one of 2 GB of which nothing comes",
            f"401, 403, 408 or 413, or the connection ends within {GRACE_S:g} s",
            endless,
        ),
    )


def wrong_keys(target: Target) -> AttackResult:
    eve = target.keys["eve"].secret
    results = []
    for name, secret in (
        ("bo", eve),
        ("operator", eve),
        ("platform", eve),
        ("", eve),
        ("eve", target.keys["stranger"].secret),
        ("former", target.keys["revoked"].secret),
        ("eve", ""),
        ("eve", "mlp_"),
        ("", ""),
        ("operator", ""),
        ("platform", ""),
        ("platform", "platform"),
        ("\u0435ve", eve),
        ("eve\x00bo", eve),
        ("eve", eve[:-1]),
        ("eve", eve + "x"),
        ("' OR 1=1 --", "' OR 1=1 --"),
    ):
        let_in = is_let_in(target, credentials(name, secret))
        results.append(AttackResult(not let_in, f"{name!a} {'let in' if let_in else 'refused'}"))
    return all_of(results)


def applications_key(target: Target) -> AttackResult:
    results = []
    for key in ("shop", "reader"):
        for name in (key, "operator", "platform", "eve"):
            let_in = is_let_in(target, credentials(name, target.keys[key].secret))
            results.append(AttackResult(not let_in, "let in" if let_in else "refused"))
    return all_of(results)


def guessed(target: Target) -> AttackResult:
    began_s = time.monotonic()
    let_in = [
        n
        for n in range(TRIES)
        for name in ("operator", "platform")
        if is_let_in(target, credentials(name, f"mlp_guess{n}"))
    ]
    rate = 2 * TRIES / (time.monotonic() - began_s)
    return AttackResult(not let_in, f"{len(let_in)} of {2 * TRIES} let in; {rate:.0f} a second")


def nearly(target: Target) -> AttackResult:
    if not asks_who(target):
        return AttackResult(False, "nothing asks for a log-in")
    port, pair = target.prefect_port, _pair(target)
    line = "Authorization: Basic "
    results = []
    for more in (
        f"{line}{pair}\r\n{line}{_encoded(b'platform:')}\r\n",
        f"Authorization: Digest {pair}\r\n",
        f"Authorization: Negotiate {pair}\r\n",
        "Authorization: Basic eve:key\r\n",
        f"{line}{_encoded(b'platform')}\r\n",
        f"{line}{_encoded(bytes(3))}\r\n",
        f"{line}{_encoded(b'platform:' + bytes(2))}\r\n",
        f"{line}{_encoded(bytes([255, 254, 58, 255]))}\r\n",
        f"{line}{'A' * 65_536}\r\n",
        "Authorization: \r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer null\r\n",
        f"Proxy-Authorization: Basic {pair}\r\n",
        f"X-Authorization: Basic {pair}\r\n",
        f"Cookie: Authorization=Basic {pair}; session={pair}\r\n",
    ):
        head = f"GET {VERSION} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{more}"
        answer = raw(port, f"{head}\r\n".encode())
        shown = f" to {more[:40]!r}" if answer.status == 200 else ""
        results.append(AttackResult(answer.status in (0, 400, 401, 431), f"{answer.status}{shown}"))
    key = target.keys["eve"]
    for url in (
        f"{target.prefect}{VERSION}?authorization=Basic%20{pair}",
        f"{target.prefect}{VERSION}?name=eve&key={key.secret}",
    ):
        answer = ask("GET", url)
        results.append(AttackResult(answer.shut, f"{answer.status}"))
    return all_of(results)


def other_tokens(target: Target) -> AttackResult:
    eve = target.keys["eve"]
    results = []
    for url in (f"{target.page}/", f"{target.mlflow}/api/2.0/mlflow/registered-models/search"):
        answer = ask("GET", url, headers=credentials(eve.name, eve.secret))
        results.append(AttackResult(answer.shut, f"eve: {answer.status}"))
    for file in sorted((target.home / "run").glob("*.token")):
        if file.name.startswith("prefect"):
            continue
        for name in ("operator", "platform", "eve"):
            let_in = is_let_in(target, credentials(name, file.read_text().strip()))
            results.append(
                AttackResult(not let_in, f"{file.name} lets in" if let_in else "refused")
            )
    results.append(_first_key(target))
    return all_of(results)


def _first_key(target: Target) -> AttackResult:
    key = (target.home / "secrets" / "api.key").read_text().strip()
    let_in = is_let_in(target, credentials("default", key))
    return AttackResult(not let_in, "the first API key lets in" if let_in else "refused")


def cross_site(target: Target) -> AttackResult:
    eve = target.keys["eve"]
    results = []
    run = f"/api/deployments/{target.deployments['fraud-drift']}/create_flow_run"
    resume = RESUMED.format(run=target.question.flow_run)
    origins = ("http://evil.example", "null", target.page, "http://127.0.0.1",
               target.prefect.replace("http:", "https:"), f"{target.prefect}.evil.example",
               )  # fmt: skip
    for origin in origins:
        for method, path, kind in (
            ("GET", VERSION, ""),
            ("POST", run, "application/json"),
            ("POST", run, "text/plain"),
            ("POST", resume, "application/x-www-form-urlencoded"),
        ):
            own = credentials(eve.name, eve.secret) | {"Origin": origin}
            body = b'{"parameters": {"model": "fraud"}}' if kind else None
            if kind:
                own["Content-Type"] = kind
            answer = ask(method, target.prefect + path, data=body, headers=own)
            results.append(AttackResult(answer.shut, f"{answer.status} {method} from {origin}"
                               if not answer.shut else f"{answer.status}"))  # fmt: skip
    return all_of(results)


def endless(target: Target) -> AttackResult:
    results = []
    eve = target.keys["eve"]
    url = f"{target.prefect}/api/deployments/{target.deployments['fraud-drift']}/create_flow_run"
    for who, own in (("nobody", {}), ("eve", credentials(eve.name, eve.secret))):
        big = ask("POST", url, data=b"x" * 8_000_000, headers=own, within_s=20)
        results.append(
            AttackResult(big.status in (0, 400, 401, 403, 408, 413, 422), f"{who}: {big.status}")
        )
    host = f"Host: 127.0.0.1:{target.prefect_port}\r\n"
    head = f"POST {VERSION} HTTP/1.1\r\n{host}Content-Length: 2000000000\r\n\r\nx"
    began_s = time.monotonic()
    silent = raw(target.prefect_port, head.encode(), within_s=GRACE_S + 5)
    waited_s = time.monotonic() - began_s
    said = f"nothing comes: {silent.status} after {waited_s:.0f} s"
    results.append(AttackResult(silent.status != 200 and waited_s < GRACE_S, said))
    return all_of(results)


def _pair(target: Target) -> str:
    key = target.keys["eve"]
    return _encoded(f"{key.name}:{key.secret}".encode())


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
