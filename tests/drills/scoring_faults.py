"""What is done to the scoring path in a drill, and what has to hold during it."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.drills.scoring_findings import Shows

from mlplatform.model.routes import Arm
from support.faulty_predictor import Behaviour, FaultyPredictor
from support.gateways_world import GatewaysWorld
from support.ports import free_port
from support.scoring_world import ScoringWorld, wait_for, write_home_snapshots
from support.stopped_writer import stopped_writer

REGISTRY_START_S = 120.0
HELD_S = 0.2
"""How long a gateway is stopped at most for a request to come."""
STOPS = 20
ESTABLISHED = "01"


class OneGateway(ScoringWorld):
    """A gateway, a champion and its predecessor; nobody starts again what ends."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.previous, self.champion = _routed(self)
        self.start_gateway()
        self._proxy: FaultyPredictor | None = None

    @property
    def gateway_pid(self) -> int:
        assert self._gateway is not None
        return self._gateway.pid

    def behind_proxy(self) -> FaultyPredictor:
        """From now on the gateway asks the champion through a proxy."""
        if self._proxy is None:
            port = self.predictor_port(self.champion)
            self._proxy = FaultyPredictor(self.home.run / "proxy", port)
            self.tell_address(self.champion, wait_for(lambda: self._proxy and self._proxy.port))
            self.stop_gateway()  # it would keep its connections to the predictor itself
            self.start_gateway()
        return self._proxy

    def pids(self) -> list[int]:
        return [*super().pids(), *([self._proxy.process.pid] if self._proxy else [])]

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.close()
        super().close()


class TwoGateways(GatewaysWorld):
    """Two gateways and predictors under a supervisor, and MLflow beside them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, 2)
        self.previous, self.champion = _routed(self)
        self._mlflow: subprocess.Popen[bytes] | None = None

    @property
    def registry(self) -> subprocess.Popen[bytes]:
        """MLflow, started when it is first asked for."""
        if self._mlflow is None:
            port = free_port()
            self.home.mlflow_token.write_text("drill")
            self._mlflow = self._start("mlflow", MLPLATFORM_MLFLOW_PORT=str(port))
            url = f"http://127.0.0.1:{port}/health"
            wait_for(lambda: _answers(url), REGISTRY_START_S)
        return self._mlflow

    def close(self) -> None:
        if self._mlflow is not None:
            self._mlflow.kill()
            self._mlflow.wait()
        super().close()


def _routed(world: ScoringWorld) -> tuple[Arm, Arm]:
    previous, champion = world.deploy(1), world.deploy(2, offset=0.01)
    world.promote(previous)
    world.promote(champion)
    return previous, champion


@contextlib.contextmanager
def predictor_killed(world: OneGateway) -> Iterator[None]:
    world.kill_predictor(world.champion)
    try:
        yield
    finally:
        world.start_predictor(world.champion)


@contextlib.contextmanager
def predictors_frozen(world: OneGateway) -> Iterator[None]:
    with world.frozen_predictor(world.champion), world.frozen_predictor(world.previous):
        yield


def behaving(behaviour: Behaviour) -> Callable[[OneGateway], AbstractContextManager[None]]:
    """The champion's answers, spoilt on their way."""

    @contextlib.contextmanager
    def fault(world: OneGateway) -> Iterator[None]:
        with world.behind_proxy().behaving(behaviour):
            yield

    return fault


@contextlib.contextmanager
def features_locked(world: OneGateway) -> Iterator[None]:
    """A writer of features that does not end holds the strongest lock that a writer can take."""
    with closing(sqlite3.connect(world.home.online_db, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.execute("ROLLBACK")


@contextlib.contextmanager
def features_held(world: OneGateway) -> Iterator[None]:
    """A writer of features was stopped at the one moment at which it holds up readers too."""
    # Of a log that is wholly checkpointed readers take the one mark that no writer holds.
    write_home_snapshots(world.home)
    with stopped_writer(world.home.online_db):
        yield


@contextlib.contextmanager
def features_gone(world: OneGateway) -> Iterator[None]:
    away = world.home.root / "away"
    away.mkdir()
    names = [world.home.online_db.name + suffix for suffix in ("", "-wal", "-shm")]
    found = [name for name in names if (world.home.root / name).exists()]
    for name in found:
        (world.home.root / name).rename(away / name)
    try:
        yield
    finally:
        for name in found:
            (away / name).rename(world.home.root / name)
        away.rmdir()


@contextlib.contextmanager
def log_full(world: OneGateway) -> Iterator[None]:
    """No file of the gateway may grow: what a process sees of a full disk, without root."""
    soft, hard = resource.prlimit(world.gateway_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(world.gateway_pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(world.gateway_pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def log_held(world: OneGateway) -> Iterator[None]:
    """Another process was stopped at the one moment at which it holds up readers of the log."""
    with stopped_writer(world.home.decisions / "decisions.db"):
        yield


@contextlib.contextmanager
def gateway_killed(world: TwoGateways) -> Iterator[None]:
    """One of them, while it holds a request."""
    name, pid = _stopped_with_a_request(world)
    os.kill(pid, signal.SIGKILL)
    yield
    world.await_successor(name, pid)


def _stopped_with_a_request(world: TwoGateways) -> tuple[str, int]:
    """The name and the process of a gateway that is stopped; a client waits for it."""
    for name in itertools.islice(itertools.cycle(world.names), STOPS):
        pid = _pid(world, name)
        os.kill(pid, signal.SIGSTOP)
        until_s = time.monotonic() + HELD_S
        while time.monotonic() < until_s:
            if _unread_bytes(pid, world.port):
                return name, pid
            time.sleep(0.005)
        os.kill(pid, signal.SIGCONT)
    raise TimeoutError(f"{STOPS} stops of {HELD_S} s, and no request came for a stopped gateway")


def _pid(world: TwoGateways, name: str) -> int:
    process = world.process(name).process
    assert process is not None
    return process.pid


def _unread_bytes(pid: int, port: int) -> int:
    """What clients of a port sent to a process that it has not read; see proc_net(5)."""
    sockets = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(queues.rpartition(":")[2], 16)
        for _, local, _, state, queues, _, _, _, _, inode, *_ in rows
        if state == ESTABLISHED and f"socket:[{inode}]" in sockets
        if int(local.rpartition(":")[2], 16) == port
    )


@contextlib.contextmanager
def predictor_restarted(world: TwoGateways) -> Iterator[None]:
    """The fault is over at once: the supervisor has to end what follows from it."""
    world.kill(world.champion.service)
    yield


@contextlib.contextmanager
def registry_gone(world: TwoGateways) -> Iterator[None]:
    """MLflow is killed and its data moved away; a gateway that starts then needs neither."""
    world.registry.kill()
    world.registry.wait()
    folder, away = world.home.mlflow, world.home.root / "mlflow.away"
    folder.rename(away)
    pid = _pid(world, "gateway-1")
    os.kill(pid, signal.SIGTERM)
    try:
        world.await_successor("gateway-1", pid)
        yield
    finally:
        away.rename(folder)


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault.

    Args:
        expected: what has to hold, for a person.
        prepare: what is started before the load, for this fault alone.
    """

    expected: str
    world: type[ScoringWorld]
    fault: Callable[..., AbstractContextManager[None]]
    shows: Shows
    prepare: Callable[..., object] = lambda world: None


DRILLS = {
    "predictor_killed": Drill(
        "the predecessor answers, degraded, until the champion's predictor runs again and the"
        " breaker lets it be asked",
        OneGateway, predictor_killed, "degraded",
    ),
    "predictors_frozen": Drill(
        "champion and predecessor take requests and answer none: each gets its slice, then the"
        " gateway decides by itself in time; breakers spare the requests that follow",
        OneGateway, predictors_frozen, "degraded",
    ),
    "predictor_slow": Drill(
        "calls that take 100 times longer are given up at their slice, the predecessor answers",
        OneGateway, behaving("slow"), "degraded", OneGateway.behind_proxy,
    ),
    "predictor_nan": Drill(
        "a score that is no number is no score: the predecessor answers, degraded",
        OneGateway, behaving("nan"), "degraded", OneGateway.behind_proxy,
    ),
    "predictor_shapes": Drill(
        "scores of a wrong number or type are no scores: the predecessor answers, degraded",
        OneGateway, behaving("shapes"), "degraded", OneGateway.behind_proxy,
    ),
    "features_locked": Drill(
        "readers do not wait for a writer that holds its lock: nothing shows",
        OneGateway, features_locked, "nothing",
    ),
    "features_held": Drill(
        "no request waits for the lock: answers say that they were given without features",
        OneGateway, features_held, "features",
    ),
    "features_gone": Drill(
        "answers say that they were given without features, until the file is back",
        OneGateway, features_gone, "features",
    ),
    "log_full": Drill(
        "refused in time with problem log-unavailable, as model.yaml declares for this tier"
        " (when_unrecordable: refuse); answered again, by the same keys too, when there is room",
        OneGateway, log_full, "refused",
    ),
    "log_held": Drill(
        "refused in time with problem log-unavailable: whether a key was answered before cannot"
        " be known while nobody can read the log",
        OneGateway, log_held, "refused",
    ),
    "gateway_killed": Drill(
        "requests that it held are answered by the other gateway after one retry by the same key",
        TwoGateways, gateway_killed, "retried",
    ),
    "predictor_restarted": Drill(
        "the supervisor starts the champion's predictor again; meanwhile the predecessor answers",
        TwoGateways, predictor_restarted, "degraded",
    ),
    "registry_gone": Drill(
        "scoring does not need it: nothing shows, and a gateway starts without it",
        TwoGateways, registry_gone, "nothing", lambda world: world.registry,
    ),
}  # fmt: skip


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
