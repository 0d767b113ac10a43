"""How long requests take in processes that work in turns on cores that they share: a simulation.

A process that has a core takes all that waits for it, up to a limit, and works at it in one turn:
each kind of work in the turn costs a fixed part, and each request its own. So a lone request is
dear and a crowd cheap, as event loops, calls of a predictor and group commits make it. Who waits
for a core is served in order. Pauses keep a process from working, as other users of a machine do.

With one kind of work, no fixed part and one request a turn, this is M/M/c or M/G/1, whose answers
are known.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SEED: Final = 5
WARM_UP_SHARE: Final = 0.05
MAX_WAITING: Final = 100_000
MAX_TURN: Final = 128
"""Requests that a process takes in one turn: `CALL_ROWS` of a call, about as many of a commit."""


@dataclass(frozen=True, slots=True)
class Step:
    """A visit of a request at a process.

    Args:
        role: the kind of process.
        fixed_us: of a turn that has such work, in microseconds of processor time.
        each_us: of each request in it.
        counts: whether its time is in the request's latency; work before a request is sent and
            after it is answered keeps cores busy all the same.
    """

    role: str
    fixed_us: float
    each_us: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Pauses:
    """What keeps one process from working: so often a second, for one of these times."""

    per_s: float = 0.0
    ms: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class System:
    """Processes, cores, and what a request asks of them.

    Args:
        steps: in the order of a request.
        processes: role → how many there are; a role that is not named has a thread for each
            request, as clients have, which do not work in turns.
        cores: that all of them share; None: each process has one of its own.
        delays_ms: one of these is added to a request's latency: time that no processor has.
        paused: the role that has pauses.
    """

    steps: tuple[Step, ...]
    processes: Mapping[str, int]
    cores: int | None = None
    delays_ms: tuple[float, ...] = (0.0,)
    pauses: Pauses = Pauses()
    paused: str = ""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came out.

    Args:
        latencies_ms: of each request, those of the first twentieth left out.
        cpu_us: role → processor time of a request, on average.
        per_s: requests that were answered a second.
    """

    latencies_ms: NDArray[np.float64]
    cpu_us: dict[str, float]
    per_s: float

    def quantile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_ms, percent))


@dataclass(slots=True)
class _Process:
    role: str
    inbox: deque[tuple[int, int]] = field(default_factory=deque)
    busy: bool = False
    blocked_until_us: float = 0.0


def open_loop(
    system: System,
    rate_per_s: float,
    *,
    requests: int = 40_000,
    evenly: bool = False,
    exponential: bool = False,
    seed: int = SEED,
) -> SimulationResult:
    """Requests that come at a rate, whether or not others were answered.

    Args:
        evenly: at equal distances, as a load generator sends them; else at random (Poisson).
        exponential: turns take random times of that mean; else always the same.

    Raises:
        ValueError: so many wait that the system does not keep up.
    """
    rng = np.random.default_rng(seed)
    mean_us = 1e6 / rate_per_s
    gaps = np.full(requests, mean_us) if evenly else rng.exponential(mean_us, requests)
    return _Run(system, rng, exponential).run(np.cumsum(gaps).tolist())


def closed_loop(
    system: System, users: int, *, requests: int = 20_000, seed: int = SEED
) -> SimulationResult:
    """Users who send the next request when the last one is answered."""
    run = _Run(system, np.random.default_rng(seed), False)
    return run.run([0.0] * users, in_all=requests)


class _Run:
    def __init__(self, system: System, rng: np.random.Generator, exponential: bool) -> None:
        self.system = system
        self.rng = rng
        self.exponential = exponential
        self.events: list[tuple[float, int, Any]] = []
        self.number = 0
        self.free = system.cores if system.cores is not None else 1 << 30
        self.for_core: deque[_Process] = deque()
        self.processes = {
            role: [_Process(role) for _ in range(count)] for role, count in system.processes.items()
        }
        self.began_us: dict[int, float] = {}
        self.assigned: dict[int, dict[str, _Process]] = {}
        self.latencies_ms: list[float] = []
        self.cpu_us = dict.fromkeys((step.role for step in system.steps), 0.0)

    def run(self, arrivals_us: Sequence[float], in_all: int | None = None) -> SimulationResult:
        """Each arrival is a request; with `in_all`, an answer is followed by the next request."""
        left = 0 if in_all is None else in_all - len(arrivals_us)
        total = len(arrivals_us) + max(left, 0)
        for request, at_us in enumerate(arrivals_us):
            self._later(at_us, (request, 0))
        for process in self.processes.get(self.system.paused, ()):
            self._pause(process, 0.0)
        now_us, done, sent = 0.0, 0, len(arrivals_us)
        while done < total:
            now_us, _, event = heapq.heappop(self.events)
            match event:
                case (int(request), int(step)):
                    if step == len(self.system.steps):
                        done += 1
                        if left > 0:
                            left -= 1
                            self._later(now_us, (sent, 0))
                            sent += 1
                        continue
                    self._visit(now_us, request, step)
                case (_Process() as process, list(batch)):
                    self._end(now_us, process, batch)
                case _Process() as process:
                    self._pause(process, now_us)
        kept = self.latencies_ms[int(len(self.latencies_ms) * WARM_UP_SHARE) :]
        cpu_us = {role: us / total for role, us in self.cpu_us.items()}
        return SimulationResult(np.array(kept), cpu_us, total / now_us * 1e6)

    def _later(self, at_us: float, event: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (at_us, self.number, event))

    def _visit(self, now_us: float, request: int, number: int) -> None:
        step = self.system.steps[number]
        if step.counts and request not in self.began_us:
            self.began_us[request] = now_us
        pool = self.processes.get(step.role)
        if pool is None:
            process = _Process(step.role)
        else:
            own = self.assigned.setdefault(request, {})
            if step.role not in own:
                own[step.role] = pool[int(self.rng.integers(len(pool)))]
            process = own[step.role]
        process.inbox.append((request, number))
        if len(process.inbox) > MAX_WAITING:
            raise ValueError(f"more than {MAX_WAITING} requests wait: it does not keep up")
        self._ask(now_us, process)

    def _ask(self, now_us: float, process: _Process) -> None:
        """The process works as soon as there is a core."""
        if process.busy or not process.inbox:
            return
        process.busy = True
        self.for_core.append(process)
        self._hand_out(now_us)

    def _hand_out(self, now_us: float) -> None:
        while self.free and self.for_core:
            process = self.for_core.popleft()
            self.free -= 1
            size = min(len(process.inbox), MAX_TURN)
            batch = [process.inbox.popleft() for _ in range(size)]
            steps = self.system.steps
            took_us = sum(steps[n].fixed_us for n in {number for _, number in batch})
            took_us += sum(steps[number].each_us for _, number in batch)
            if self.exponential:
                took_us = float(self.rng.exponential(took_us))
            self.cpu_us[process.role] += took_us
            start_us = max(now_us, process.blocked_until_us)
            self._later(start_us + took_us, (process, batch))

    def _end(self, now_us: float, process: _Process, batch: list[tuple[int, int]]) -> None:
        self.free += 1
        process.busy = False
        steps = self.system.steps
        for request, number in batch:
            following = number + 1
            last = following == len(steps) or not steps[following].counts
            if steps[number].counts and last:
                delay_ms = self.system.delays_ms[int(self.rng.integers(len(self.system.delays_ms)))]
                took_ms = (now_us - self.began_us.pop(request)) / 1000 + delay_ms
                self.latencies_ms.append(took_ms)
                self._later(now_us + max(delay_ms, 0.0) * 1000, (request, following))
            else:
                self._later(now_us, (request, following))
            if following == len(steps):
                self.assigned.pop(request, None)
        self._ask(now_us, process)
        self._hand_out(now_us)

    def _pause(self, process: _Process, now_us: float) -> None:
        pauses = self.system.pauses
        if pauses.per_s <= 0:
            return
        if now_us > 0:
            ms = pauses.ms[int(self.rng.integers(len(pauses.ms)))]
            process.blocked_until_us = max(process.blocked_until_us, now_us) + ms * 1000
        self._later(now_us + float(self.rng.exponential(1e6 / pauses.per_s)), process)
