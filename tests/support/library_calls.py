"""Payments through the client library, and what of its answers the decision log does not confirm.

A wrong answer is one that the log does not have, has under another key or another way, or twice.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlplatform_client import Answer, AsyncClient, CallFailed, Client, Settings
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

OFFSET = 0.01
"""Of the champion's scores, beside a thousandth of the amount."""
SentPayments = dict[str, dict[str, Any]]
"""Key → payment."""
CallResults = dict[str, Answer | CallFailed]
"""Key → what came of it."""


def payments(prefix: str, count: int) -> SentPayments:
    """Payments of now, whose amounts, and so whose scores, follow from their numbers."""
    return {f"{prefix}-{n}": payment(float(n * 37 % 990), customer=n) for n in range(count)}


def asked(url: str, secret: str, sent: SentPayments, settings: Settings) -> CallResults:
    """What came of payments: a third by threads, a third in batches, a third by asyncio."""
    found: CallResults = {}
    keys = list(sent)
    third = len(keys) // 3

    def score(client: Client, key: str) -> None:
        try:
            found[key] = client.score(MODEL, sent[key], key=key)
        except CallFailed as error:
            found[key] = error

    def batch(client: Client, some: list[str]) -> None:
        try:
            results = client.score_batch(MODEL, [sent[key] for key in some], keys=some)
        except CallFailed as error:
            found.update(dict.fromkeys(some, error))
        else:
            found.update({r.key: r.answer or r.error for r in results})  # type: ignore[misc]

    with Client(url, secret, settings) as client, ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(score, client, key) for key in keys[:third]]
        some = [keys[n : n + 5] for n in range(third, 2 * third, 5)]
        tasks += [pool.submit(batch, client, few) for few in some]
        alone = {key: sent[key] for key in keys[2 * third :]}
        tasks.append(pool.submit(asyncio.run, asked_alone(url, secret, alone, settings, found)))
        for task in tasks:
            task.result()
    assert found.keys() == sent.keys()
    return found


async def asked_alone(
    url: str, secret: str, sent: SentPayments, settings: Settings, found: CallResults
) -> None:
    """By asyncio, six at a time."""
    async with AsyncClient(url, secret, settings) as client:
        room = asyncio.Semaphore(6)

        async def score(key: str) -> None:
            async with room:
                try:
                    found[key] = await client.score(MODEL, sent[key], key=key)
                except CallFailed as error:
                    found[key] = error

        await asyncio.gather(*map(score, sent))


def wrong(world: ScoringWorld, sent: SentPayments, found: CallResults) -> list[str]:
    """What is wrong with the answers, and with errors that say nothing; a line for each."""
    wait_for(lambda: not list((world.home.decisions / "spill").glob("*.spill")))
    rows = [(row["payload"].get("idempotency_key"), row) for row in world.records("decision")]
    rows = [(key, row) for key, row in rows if key in sent]
    by_key = dict(rows)
    doubled = [key for key, count in Counter(key for key, _ in rows).items() if count > 1]
    problems = [f"{key}: decided twice" for key in doubled]
    for key, result in found.items():
        if isinstance(result, CallFailed):
            if type(result) is CallFailed or not result.facts.way_out:
                problems.append(f"{key}: an error without a type or a way out: {result}")
        elif (row := by_key.get(key)) is None:
            problems.append(f"{key}: an answer without a record")
        else:
            problems += [f"{key}: {it}" for it in _differences(sent[key], result, row)]
    return problems


def _differences(sent: dict[str, Any], answer: Answer, row: dict[str, Any]) -> Iterator[str]:
    for name in ("decision_id", "decision", "score", "answered_by"):
        if getattr(answer, name) != row[name]:
            yield f"{name} is {getattr(answer, name)!r}, on record {row[name]!r}"
    own = sent["amount"] / 1000 + OFFSET
    if answer.degraded is None and not math.isclose(answer.score or 0.0, own, abs_tol=1e-5):
        yield f"score is {answer.score}, the model's {own}"


def kinds(found: CallResults) -> Counter[str]:
    """How many answers came, and errors of each type."""
    return Counter(type(result).__name__ for result in found.values())


def asked_again(world: ScoringWorld, sent: SentPayments, found: CallResults) -> CallResults:
    """The same payments by the same keys, for those that failed."""
    failed = {key: sent[key] for key, result in found.items() if isinstance(result, CallFailed)}
    again = asked(world.url, world.home.api_key.read_text(), failed, Settings()) if failed else {}
    return found | again
