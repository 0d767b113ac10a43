"""Log-ins: who may, how often, and what a cookie is worth afterwards."""

from __future__ import annotations

import time
from typing import Final

from tests.drills.attacks.attack import PREFECT, Attack, Got, Key, Target, all_of
from tests.drills.attacks.wire import (
    COOKIE,
    LOG_IN,
    LOG_OUT,
    Answer,
    ask,
    log_in,
    raw,
    session_of,
)

TRIES: Final = 100
MOST_A_SECOND: Final = 30.0
"""Tries that may be answered as if each were the first; keys have 256 bits: it is for the load."""
NEEDS: Final = "/api/admin/version"


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "log-in, a key of another person's",
            "high",
            f"POST {LOG_IN} with name bo and eve's key, an unknown key, a revoked one, none, the "
            "name operator with eve's key",
            "no session",
            wrong_keys,
            PREFECT,
        ),
        Attack(
            "log-in, an application's key",
            "high",
            f"POST {LOG_IN} with the key of an application that has score, labels and void",
            "no session: a person's scopes are run and approve",
            applications_key,
            PREFECT,
        ),
        Attack(
            "log-in, guessed again and again",
            "medium",
            f"{TRIES} times POST {LOG_IN} with a wrong key",
            f"429, or answers at less than {MOST_A_SECOND:g} a second",
            guessed,
            PREFECT,
        ),
        Attack(
            "log-in, a session that was fixed before",
            "high",
            f"POST {LOG_IN} with a cookie {COOKIE}=fixed, then that cookie",
            "a new cookie; the fixed one is worth nothing",
            fixed,
        ),
        Attack(
            "log-in, a cookie after logging out",
            "high",
            f"POST {LOG_OUT}, then the old cookie",
            "401",
            logged_out,
        ),
        Attack(
            "log-in, a cookie that scripts or other sites can use",
            "medium",
            "flags of the cookie that a log-in sets",
            "HttpOnly, SameSite=Strict, Path=/, and no Domain",
            flags,
        ),
        Attack(
            "log-in, a form of another site's page",
            "medium",
            f"POST {LOG_IN} with a foreign Origin and eve's key, so that a victim acts as eve",
            "no session",
            cross_site,
        ),
        Attack(
            "log-in, sent on to another site",
            "low",
            f"POST {LOG_IN}?next= and GET, with //evil.example, \\\\evil.example, "
            "https://evil.example, %0d%0aSet-Cookie",
            "a redirect stays on this server, and no header is added",
            redirected,
        ),
        Attack(
            "log-in, a cookie that is guessed or changed",
            "high",
            "eve's cookie with a byte changed, cut, doubled, with another name in front",
            "401",
            changed,
        ),
        Attack(
            "log-in, a cookie at the other doors",
            "medium",
            "eve's cookie sent to page, MLflow and gateway",
            "401",
            elsewhere,
        ),
        Attack(
            "log-in, a body without end",
            "medium",
            f"POST {LOG_IN} of 8 MB, and one of 2 GB of which nothing comes",
            "400, 408 or 413, or the connection ends within 30 s",
            endless,
        ),
    )


def wrong_keys(target: Target) -> Got:
    eve = target.keys["eve"].secret
    results = []
    for name, secret in (
        ("bo", eve),
        ("operator", eve),
        ("platform", eve),
        ("eve", target.keys["stranger"].secret),
        ("former", target.keys["revoked"].secret),
        ("eve", ""),
        ("eve", "mlp_"),
        ("", ""),
        ("operator", ""),
        ("' OR 1=1 --", "' OR 1=1 --"),
    ):
        answer = log_in(target, Key(name, secret))
        results.append(_no_session(target, answer, f"{name!r}: {answer.status}"))
    return all_of(results)


def applications_key(target: Target) -> Got:
    answer = log_in(target, target.keys["shop"])
    return _no_session(target, answer, f"{answer.status}")


def guessed(target: Target) -> Got:
    if not _asks(target):
        return Got(False, "nothing asks for a log-in")
    began_s = time.monotonic()
    statuses = [
        log_in(target, Key("operator", f"mlp_guess{n}"), {"Connection": "close"}).status
        for n in range(TRIES)
    ]
    rate = TRIES / (time.monotonic() - began_s)
    limited = statuses.count(429)
    held = 200 not in statuses and (limited > 0 or rate < MOST_A_SECOND)
    return Got(held, f"{limited} of {TRIES} answered 429; {rate:.0f} a second")


def fixed(target: Target) -> Got:
    answer = log_in(target, target.keys["eve"], {"Cookie": f"{COOKIE}=fixed"})
    taken = session_of(answer)
    if not taken and not _asks(target):
        return Got(False, "nothing asks for a log-in")
    used = ask("GET", target.prefect + NEEDS, headers={"Cookie": f"{COOKIE}=fixed"})
    is_new = taken != f"{COOKIE}=fixed"
    return Got(is_new and used.shut, f"a new cookie: {is_new}; the fixed one: {used.status}")


def logged_out(target: Target) -> Got:
    cookie = session_of(log_in(target, target.keys["eve"]))
    own = {"Cookie": cookie, "Origin": target.prefect}
    before = ask("GET", target.prefect + NEEDS, headers=own)
    ended = ask("POST", target.prefect + LOG_OUT, headers=own)
    after = ask("GET", target.prefect + NEEDS, headers=own)
    said = f"before {before.status}, log-out {ended.status}, after {after.status}"
    return Got(after.shut, said)


def flags(target: Target) -> Got:
    answer = log_in(target, target.keys["eve"])
    given = answer.headers.get("set-cookie", "").lower()
    wanted = ("httponly", "samesite=strict", "path=/")
    missing = [flag for flag in wanted if flag not in given]
    named = given.partition("=")[0] or "no cookie"
    return Got(not missing and "domain" not in given, f"{named}; missing: {missing or 'nothing'}")


def cross_site(target: Target) -> Got:
    evil = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = log_in(target, target.keys["eve"], evil)
    return _no_session(target, answer, f"{answer.status}")


def redirected(target: Target) -> Got:
    results = []
    key = target.keys["eve"]
    for where in ("//evil.example", "/\\evil.example", "https://evil.example",
                  "/%0d%0aSet-Cookie:%20mine=1", "javascript:alert(1)"):  # fmt: skip
        for method in ("GET", "POST"):
            form = {"name": key.name, "key": key.secret, "next": where}
            url = f"{target.prefect}{LOG_IN}?next={where}"
            own = {"Origin": target.prefect}
            answer = ask(method, url, data=form if method == "POST" else None, headers=own)
            to = answer.headers.get("location", "/")
            stays = to.startswith(("/", target.prefect)) and not to.startswith(("//", "/\\"))
            clean = "mine" not in answer.headers.get("set-cookie", "")
            results.append(Got(stays and clean, f"{method} {answer.status} to {to[:60]}"))
    return all_of(results)


def changed(target: Target) -> Got:
    cookie = session_of(log_in(target, target.keys["eve"]))
    value = cookie.partition("=")[2] or "none"
    last = "A" if value[-1] != "A" else "B"
    results = []
    for forged in (value[:-1] + last, value[: len(value) // 2], value * 2, f"bo.{value}",
                   f'"{value}', value.swapcase(), "", "null"):  # fmt: skip
        if forged == value:
            continue
        answer = ask("GET", target.prefect + NEEDS, headers={"Cookie": f"{COOKIE}={forged}"})
        results.append(Got(answer.shut, f"{answer.status}"))
    return all_of(results)


def elsewhere(target: Target) -> Got:
    cookie = session_of(log_in(target, target.keys["eve"]))
    results = []
    for url in (
        f"{target.page}/",
        f"{target.mlflow}/api/2.0/mlflow/experiments/search?max_results=1",
        f"{target.gateway}/api/v1/models",
    ):
        answer = ask("GET", url, headers={"Cookie": cookie})
        results.append(Got(answer.shut, f"{answer.status} {url.rsplit(':', 1)[1][5:40]}"))
    return all_of(results)


def endless(target: Target) -> Got:
    big = ask("POST", target.prefect + LOG_IN, data=b"name=" + b"x" * 8_000_000)
    host = f"Host: 127.0.0.1:{target.prefect_port}\r\n"
    kind = "Content-Type: application/x-www-form-urlencoded\r\n"
    head = f"POST {LOG_IN} HTTP/1.1\r\n{host}{kind}Content-Length: 2000000000\r\n\r\nname="
    began_s = time.monotonic()
    silent = raw(target.prefect_port, head.encode(), within_s=30)
    waited_s = time.monotonic() - began_s
    held = big.status in (0, 400, 401, 403, 413) and waited_s < 29
    return Got(
        held,
        f"8 MB: {big.status}; 2 GB of which nothing comes: {silent.status} after {waited_s:.0f} s",
    )


def _no_session(target: Target, answer: Answer, said: str) -> Got:
    """Whether a log-in failed; where nothing asks for one, everybody is let in."""
    if not _asks(target):
        return Got(False, "nothing asks for a log-in")
    cookie = session_of(answer)
    let_in = cookie and not ask("GET", target.prefect + NEEDS, headers={"Cookie": cookie}).shut
    return Got(not let_in, said)


def _asks(target: Target) -> bool:
    return ask("GET", target.prefect + NEEDS).shut
