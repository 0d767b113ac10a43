"""Forms of the platform's page: of nobody, of another site, forged, and of people who may not."""

from __future__ import annotations

from typing import Final

from tests.drills.attacks.attack import PAGE, Attack, AttackResult, Target, all_of
from tests.drills.attacks.wire import Answer, ask

REASON: Final = "the evidence was read"
FOREIGN: Final = ("http://evil.example", "null", "http://127.0.0.1:1", "")


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "page, an approval by nobody and by who may only run flows",
            "high",
            "POST /rollouts/{id}/act/approve and reject, and /models/fraud/act/kill without a "
            "session; approve and reject in eve's session with forged tokens and numbers",
            "403, or the way to the sign-in; no answer in the journal",
            by_who_may_not,
            PAGE,
            asks=True,
        ),
        Attack(
            "page, a form that another site's page sends with a person's cookie",
            "high",
            "POST /models/fraud/act/kill and /sign-out in eve's session with a foreign Origin, "
            "Origin null, another port's and none, and without the session's token",
            "403 to each",
            cross_site,
            PAGE,
        ),
        Attack(
            "page, keys guessed and cookies made up",
            "medium",
            "POST /sign-in of bo with 20 made-up keys and eve's; 20 made-up cookies",
            "401, and 429 after ten; the sign-in form",
            guessed,
            PAGE,
        ),
    )


def by_who_may_not(target: Target) -> AttackResult:
    of = f"{target.page}/rollouts/{target.question.rollout_id}/act"
    paths = (f"{of}/approve", f"{of}/reject", f"{target.page}/models/fraud/act/kill")
    fields = {"token": "x", "form": "x", "seen": target.question.evidence, "reason": REASON}
    results = [_held(_post(target, path, fields)) for path in paths]
    cookie = _signed_in(target)
    results += [_held(_post(target, path, fields, cookie)) for path in paths[:2]]
    results += [_held(ask("GET", path, headers={"Cookie": cookie})) for path in paths[:2]]
    return all_of(
        [*results, AttackResult(bool(cookie), "eve signs in" if cookie else "eve is kept out")]
    )


def cross_site(target: Target) -> AttackResult:
    cookie, results = _signed_in(target), []
    fields = {"token": "x", "form": "x", "seen": "generation 1", "reason": REASON}
    for path in (f"{target.page}/models/fraud/act/kill", f"{target.page}/sign-out"):
        for origin in FOREIGN:
            results.append(_held(_post(target, path, fields, cookie, origin)))
        results.append(_held(_post(target, path, fields, cookie)))
    return all_of(results)


def guessed(target: Target) -> AttackResult:
    results = []
    secrets = [target.keys["eve"].secret, *(f"mlp_guess-{n}" for n in range(20))]
    for secret in secrets:
        answer = _post(target, f"{target.page}/sign-in", {"name": "bo", "key": secret})
        results.append(AttackResult(answer.status in (401, 429), str(answer.status)))
    for number in range(20):
        cookie = f"mlplatform-page-{target.page_port}=guess{number}"
        results.append(_held(ask("GET", f"{target.page}/", headers={"Cookie": cookie})))
    return all_of(results)


def _signed_in(target: Target) -> str:
    """The cookie of eve's session, who may run flows; empty where she is kept out."""
    eve = target.keys["eve"]
    given = _post(target, f"{target.page}/sign-in", {"name": eve.name, "key": eve.secret})
    return str(given.headers.get("set-cookie", "")).partition(";")[0]


def _post(
    target: Target, path: str, fields: dict[str, str], cookie: str = "", origin: str | None = None
) -> Answer:
    own = f"http://127.0.0.1:{target.page_port}"
    headers = {"Cookie": cookie, "Origin": own if origin is None else origin}
    sent = {name: value for name, value in headers.items() if value}
    return ask("POST", path, data=fields, headers=sent)


def _held(answer: Answer) -> AttackResult:
    """Whether nothing was done: a refusal, or the way to the sign-in."""
    to_sign_in = str(answer.headers.get("location", "")).startswith("/sign-in")
    return AttackResult(answer.status in (401, 403, 429) or to_sign_in, str(answer.status))
