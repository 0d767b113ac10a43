"""The simulation of turns against queues whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.bench.turns import MAX_TURN, Pauses, Step, System, closed_loop, open_loop

MEAN_US = 1000.0


def erlang_c(load: float, servers: int) -> float:
    """The share of arrivals that wait in M/M/c. Source: Erlang (1917), the delay formula."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


def threads(cores: int) -> System:
    """One request a turn, on so many cores."""
    return System((Step("thread", 0.0, MEAN_US),), {}, cores=cores)


@pytest.mark.parametrize(("cores", "busy"), [(1, 0.5), (1, 0.8), (2, 0.7), (4, 0.8), (8, 0.6)])
def test_the_mean_is_that_of_many_servers(cores: int, busy: float) -> None:
    rate_per_ms = busy * cores
    waits = erlang_c(rate_per_ms, cores)
    expected_ms = 1.0 + waits / (cores - rate_per_ms)
    found = open_loop(threads(cores), rate_per_ms * 1000, exponential=True, requests=40_000)
    assert found.latencies_ms.mean() == pytest.approx(expected_ms, rel=0.1)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_the_99th_percentile_of_one_server_is_that_of_the_formula(busy: float) -> None:
    expected_ms = math.log(100) / (1 - busy)
    found = open_loop(threads(1), busy * 1000, exponential=True, requests=40_000)
    assert found.quantile_ms(99) == pytest.approx(expected_ms, rel=0.1)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_turns_of_one_length_wait_as_the_formula_says(busy: float) -> None:
    """M/D/1. Source: Pollaczek (1930) and Khinchine (1932)."""
    expected_ms = 1.0 + busy / (2 * (1 - busy))
    found = open_loop(threads(1), busy * 1000, requests=40_000)
    assert found.latencies_ms.mean() == pytest.approx(expected_ms, rel=0.08)


def test_even_arrivals_at_an_idle_core_wait_for_nothing() -> None:
    found = open_loop(threads(1), 700.0, evenly=True, requests=2_000)
    assert found.latencies_ms == pytest.approx(1.0)


def test_a_lone_request_pays_all_that_is_fixed_and_a_crowd_shares_it() -> None:
    system = System((Step("loop", 400.0, 100.0), Step("call", 50.0, 10.0)), {"loop": 1, "call": 1})
    alone, crowd = closed_loop(system, 1), closed_loop(system, 64)
    assert alone.cpu_us == pytest.approx({"loop": 500.0, "call": 60.0})
    assert alone.latencies_ms == pytest.approx(0.56)
    assert alone.per_s == pytest.approx(1e6 / 560, rel=0.01)
    assert 100.0 <= crowd.cpu_us["loop"] < 130.0
    assert crowd.per_s > 4 * alone.per_s


def test_a_turn_takes_no_more_than_its_limit() -> None:
    system = System((Step("loop", 1000.0, 0.0),), {"loop": 1})
    assert closed_loop(system, 4 * MAX_TURN).cpu_us["loop"] == pytest.approx(
        1000.0 / MAX_TURN, rel=0.02
    )


def test_processes_that_share_a_core_do_no_more_than_it_can() -> None:
    """Four processes: on two cores they do what two cores can, on their own ones twice that."""
    steps = (Step("loop", 0.0, MEAN_US),)
    shared = closed_loop(System(steps, {"loop": 4}, cores=2), 64)
    own = closed_loop(System(steps, {"loop": 4}), 64)
    assert shared.per_s == pytest.approx(2000.0, rel=0.03)
    assert own.per_s == pytest.approx(4000.0, rel=0.08)


def test_work_that_does_not_count_takes_cores_and_no_latency() -> None:
    steps = (Step("client", 0.0, 500.0, False), Step("loop", 0.0, 300.0))
    found = open_loop(System(steps, {"loop": 1}), 100.0, evenly=True, requests=1_000)
    assert found.latencies_ms == pytest.approx(0.3)
    with pytest.raises(ValueError, match="does not keep up"):
        open_loop(System(steps, {"loop": 1}, cores=1), 1_000_000.0, requests=110_000)


def test_delays_are_added_and_pauses_are_waited_for() -> None:
    steps = (Step("loop", 0.0, 100.0),)
    delayed = open_loop(System(steps, {"loop": 1}, delays_ms=(0.5,)), 10.0, requests=500)
    assert delayed.quantile_ms(50) == pytest.approx(0.6)
    pauses = Pauses(per_s=10.0, ms=(20.0,))
    paused = open_loop(System(steps, {"loop": 1}, pauses=pauses, paused="loop"), 100.0)
    late = float(np.mean(paused.latencies_ms > 1.0))
    assert late == pytest.approx(10.0 * 0.02, abs=0.05)  # a fifth of the time is a pause
