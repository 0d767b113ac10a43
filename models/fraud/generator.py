"""Makes card payments: customers near terminals, their habits, and the frauds among them.

Genuine payments follow each customer's rate, spending profile, the hour and the day of the week.
Three patterns of fraud run at all times, a fourth only after a change:

- *stolen card*: for some days part of a customer's payments are far above what is usual for them;
- *compromised terminal*: for some days part of all payments at a terminal are fraud, with amounts
  that nothing marks;
- *card not present*: a burst of extra payments on one card within one night, at any terminals;
- *cash-out* (after the change): terminals that many customers' cards are drained at, in bursts of
  middling amounts by day.

At the change the first three fade, cash-out starts, the price level rises for everybody and some
genuine payments become large (rent and travel go by card). The input distribution shows that
change days before its labels arrive, and a model of the time before raises false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .labels import arrival_us

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
DAY_MS = 86_400_000
GRID_KM = 100.0
NEAR = 40  # terminals that a customer goes to

# Payments by hour of the day: few at night, most at noon and in the early evening.
HOURS = np.array(
    [2, 1, 1, 1, 1, 2, 4, 8, 12, 14, 15, 17, 19, 17, 15, 15, 16, 19, 20, 16, 12, 8, 5, 3]
)
# By day of the week, from Monday. Small on purpose: a week's rhythm is no drift.
WEEK = np.array([0.985, 0.985, 0.99, 1.0, 1.02, 1.03, 0.99])

PRICE_LEVEL = 1.4  # after the change
LARGE_SHARE = 0.07  # of genuine payments after it: rent and travel, paid by card from then on
LARGE_TIMES = (3.0, 7.0)  # what those are of a usual amount
FADED = 0.25  # what is left of the first three patterns after it


@dataclass(frozen=True, slots=True)
class Population:
    """Who pays, where and how often.

    Args:
        payments_per_day: genuine ones, on average.
        fraud_share: frauds to payments, about, before and after the change.
    """

    customers: int = 5_000
    terminals: int = 2_000
    payments_per_day: int = 10_000
    fraud_share: float = 0.009


@dataclass(slots=True)
class _World:
    """A drawn population and the stretch of time that it lives through."""

    population: Population
    random: np.random.Generator
    start_us: int
    days: int
    change_us: int
    rate: Floats
    mean_amount: Floats
    near: Ints
    near_share: Floats


@dataclass(slots=True)
class _Payments:
    """Columns that grow into the table."""

    event_us: Ints
    customer: Ints
    terminal: Ints
    amount: Floats
    label: NDArray[np.int8]


def generate(
    *,
    seed: int,
    start_ms: int,
    days: int,
    pattern_change_ms: int | None = None,
    maturity_days: int = 3,
    population: Population | None = None,
) -> pa.Table:
    """Payments in canonical columns, by event time; the same arguments give the same table.

    Every payment has a label, and the time at which it arrives, which may lie after the last day.

    Args:
        start_ms: a UTC midnight.
        pattern_change_ms: from when on the pattern is the new one; None for never.
        maturity_days: label.maturity_days of model.yaml; frauds are reported up to it.
    """
    world = _world(seed, start_ms, days, pattern_change_ms, population or Population())
    payments = _genuine(world)
    _steal_cards(world, payments)
    _compromise_terminals(world, payments)
    bursts = [_card_not_present(world), _cash_out(world)]
    return _table(world, [payments, *bursts], maturity_days)


def _world(
    seed: int, start_ms: int, days: int, change_ms: int | None, population: Population
) -> _World:
    random = np.random.default_rng(seed)
    homes = random.uniform(0, GRID_KM, (population.customers, 2))
    places = random.uniform(0, GRID_KM, (population.terminals, 2))
    _, near = KDTree(places).query(homes, k=min(NEAR, population.terminals))
    near = near.reshape(population.customers, -1).astype(np.int64)
    popularity = random.lognormal(0.0, 0.9, population.terminals)[near]
    weight = random.gamma(1.1, 1.0, population.customers) + 0.1
    start_us = start_ms * 1000
    return _World(
        population=population,
        random=random,
        start_us=start_us,
        days=days,
        change_us=start_us + days * DAY_US if change_ms is None else change_ms * 1000,
        rate=population.payments_per_day * weight / weight.sum(),
        mean_amount=random.lognormal(np.log(42.0), 0.55, population.customers),
        near=near,
        near_share=np.cumsum(popularity, axis=1) / popularity.sum(axis=1, keepdims=True),
    )


def _genuine(world: _World) -> _Payments:
    random = world.random
    weekday = (world.start_us // DAY_US + 3 + np.arange(world.days)) % 7
    counts = random.poisson(WEEK[weekday][:, None] * world.rate[None, :])
    day = np.repeat(np.arange(world.days), counts.sum(axis=1))
    customer = np.concatenate([np.repeat(np.arange(len(world.rate)), c) for c in counts])
    event_us = world.start_us + day * DAY_US + _time_of_day(random, len(day))
    return _Payments(
        event_us=event_us,
        customer=customer,
        terminal=_nearby(world, customer),
        amount=_usual_amount(world, customer, event_us),
        label=np.zeros(len(day), np.int8),
    )


def _time_of_day(random: np.random.Generator, count: int) -> Ints:
    hour = random.choice(24, count, p=HOURS / HOURS.sum())
    return hour * HOUR_US + random.integers(0, HOUR_US, count)


def _nearby(world: _World, customer: Ints) -> Ints:
    """A terminal near the customer's home, the more popular the likelier."""
    at = world.random.uniform(size=len(customer))
    rank = (world.near_share[customer] < at[:, None]).sum(axis=1)
    chosen: Ints = world.near[customer, rank]
    return chosen


def _usual_amount(world: _World, customer: Ints, event_us: Ints) -> Floats:
    count = len(customer)
    spread = world.random.gamma(3.0, 1.0 / 3.0, count)
    large = (world.random.uniform(size=count) < LARGE_SHARE) & (event_us >= world.change_us)
    times = np.where(large, world.random.uniform(*LARGE_TIMES, count), 1.0)
    return world.mean_amount[customer] * spread * times * _prices(world, event_us)


def _prices(world: _World, event_us: Ints) -> Floats:
    return np.where(event_us >= world.change_us, PRICE_LEVEL, 1.0)


def _daily_frauds(world: _World, share_of_frauds: float) -> float:
    population = world.population
    return population.payments_per_day * population.fraud_share * share_of_frauds


def _starts(world: _World, per_day: float, lead_days: int = 0) -> Ints:
    """Starts of episodes of an old pattern, some of them in the days before the first payment."""
    count = world.random.poisson(per_day * (world.days + lead_days))
    at_us = (
        world.start_us
        - lead_days * DAY_US
        + (world.random.uniform(0, world.days + lead_days, count) * DAY_US).astype(np.int64)
    )
    kept = (at_us < world.change_us) | (world.random.uniform(size=count) < FADED)
    return np.sort(at_us[kept])


def _hit(
    keys: Ints, event_us: Ints, episode_keys: Ints, start_us: Ints, length_us: int, size: int
) -> NDArray[np.bool_]:
    """Which payments fall into an episode of their key (a customer or a terminal)."""
    hit = np.zeros(len(keys), bool)
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(size + 1))
    for key, start in zip(episode_keys, start_us, strict=True):
        rows = order[bounds[key] : bounds[key + 1]]
        hit[rows] |= (event_us[rows] >= start) & (event_us[rows] < start + length_us)
    return hit


def _steal_cards(world: _World, payments: _Payments) -> None:
    random, days = world.random, 3
    per_card = days * world.population.payments_per_day / world.population.customers * 0.6
    start_us = _starts(world, _daily_frauds(world, 0.35) / per_card, days)
    cards = random.integers(0, world.population.customers, len(start_us))
    hit = _hit(
        payments.customer, payments.event_us, cards, start_us, days * DAY_US, len(world.rate)
    )
    hit &= random.uniform(size=len(hit)) < 0.6
    payments.amount[hit] *= random.uniform(3.0, 7.0, int(hit.sum()))
    payments.label[hit] = 1


def _compromise_terminals(world: _World, payments: _Payments) -> None:
    random, days = world.random, 10
    count = world.population.terminals
    per_terminal = days * world.population.payments_per_day / count * 0.7
    start_us = _starts(world, _daily_frauds(world, 0.40) / per_terminal, days)
    terminals = random.integers(0, count, len(start_us))
    hit = _hit(payments.terminal, payments.event_us, terminals, start_us, days * DAY_US, count)
    hit &= random.uniform(size=len(hit)) < 0.7
    payments.label[hit] = 1


def _card_not_present(world: _World) -> _Payments:
    random, size = world.random, 6
    start_us = _starts(world, _daily_frauds(world, 0.25) / size)
    night = start_us // DAY_US * DAY_US + random.integers(0, 4 * HOUR_US, len(start_us))
    card = np.repeat(random.integers(0, world.population.customers, len(start_us)), size)
    event_us = np.repeat(night, size) + random.integers(0, 2 * HOUR_US, len(card))
    amount = _usual_amount(world, card, event_us) * random.uniform(1.2, 3.0, len(card))
    terminal = random.integers(0, world.population.terminals, len(card))
    return _Payments(event_us, card, terminal, amount, np.ones(len(card), np.int8))


def _cash_out(world: _World) -> _Payments:
    """Terminals that are drained for some days, a burst each day, from the change on."""
    random, days, size = world.random, 6, 9
    new_days = max(0.0, (world.start_us + world.days * DAY_US - world.change_us) / DAY_US)
    count = random.poisson(_daily_frauds(world, 1.0) / size / days * (new_days + days))
    start = random.uniform(-days, new_days, count)
    noon = np.floor(np.repeat(start, days) + np.tile(np.arange(days), count)) + 0.5
    at_us = world.change_us // DAY_US * DAY_US + (noon * DAY_US).astype(np.int64)
    event_us = np.repeat(at_us, size) + random.integers(
        -2 * HOUR_US, 4 * HOUR_US, len(at_us) * size
    )
    terminal = np.repeat(random.integers(0, world.population.terminals, count), days * size)
    card = random.integers(0, world.population.customers, len(event_us))
    amount = random.uniform(110.0, 190.0, len(event_us))
    end_us = world.start_us + world.days * DAY_US
    kept = (event_us >= world.change_us) & (event_us < end_us)
    return _Payments(
        event_us[kept], card[kept], terminal[kept], amount[kept], np.ones(int(kept.sum()), np.int8)
    )


def _table(world: _World, parts: list[_Payments], maturity_days: int) -> pa.Table:
    event_us = np.concatenate([p.event_us for p in parts])
    order = np.argsort(event_us, kind="stable")
    event_us = event_us[order]
    label = np.concatenate([p.label for p in parts])[order]
    amount = np.maximum(np.round(np.concatenate([p.amount for p in parts])[order], 2), 0.5)
    known_us = arrival_us(event_us, label, maturity_days, world.random)
    first = world.start_us // DAY_US
    ids = np.char.add(f"t{first}-", np.arange(len(order)).astype(str))
    return pa.table(
        {
            "request_id": pa.array(ids.tolist(), pa.string()),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": pa.array(np.concatenate([p.customer for p in parts])[order]),
            "terminal_id": pa.array(np.concatenate([p.terminal for p in parts])[order]),
            "amount": pa.array(amount),
            "label": pa.array(label),
            "label_time": pa.array(known_us, pa.timestamp("us")),
        }
    )
