"""What a platform is doing when its disk fills up, one moment after the other."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.drills.disk_home import COMMAND_LIMIT_S, SmallPlatform, until

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.units import DAY_S
from models.fraud.generator import Population
from support.handbook_payments import write_payments
from support.scoring_world import MODEL, payment

DAYS = 63
POPULATION = Population(customers=1_500, payments_per_day=3_000)
WHO = ("--actor", "drill", "--reason", "the disk fills up")
PAUSE_S = 0.1
SETTLED_S = 30.0
SEGMENT_ROWS = (20, 200)
"""So that there is something to seal in a short drill."""


@dataclass
class Action:
    """What was done while the disk was full, and done again when it was not.

    Args:
        ended: how the first one ended, for a person.
        again: what kept the second one from its end; empty where nothing did.
        lost, doubled: of what was acknowledged beside the payments.
    """

    ended: str = "nothing was asked for"
    again: str = ""
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0


Moment = Callable[[SmallPlatform, Action], AbstractContextManager[None]]
"""Begins before the disk is full; ends when it has room again and every process is ready."""


@contextlib.contextmanager
def nothing(world: SmallPlatform, action: Action) -> Iterator[None]:
    yield


def command(*arguments: str, before_s: float) -> Moment:
    """A command that began `before_s` ago, and is given again afterwards."""

    @contextlib.contextmanager
    def moment(world: SmallPlatform, action: Action) -> Iterator[None]:
        given = tuple(part.format(home=world.home.root, out=world.outside) for part in arguments)
        process = world.begin(*given)
        time.sleep(before_s)
        yield
        action.ended = _ending(process)
        code, said = world.run(*given)
        action.again = "" if code == 0 else f"status {code}: {said}"

    return moment


@contextlib.contextmanager
def backup(world: SmallPlatform, action: Action) -> Iterator[None]:
    """To the disk that fills up, and then to the same name."""
    target = world.home.root.parent / "backup.tar"
    process = world.begin("backup", str(target))
    time.sleep(1.5)  # it takes two or three, most of them for imports
    yield
    action.ended = _ending(process)
    if target.exists():
        target.unlink()  # it was whole before the disk was full
    code, said = world.run("backup", str(target))
    action.again = "" if code == 0 else f"status {code}: {said}"
    target.unlink(missing_ok=True)


@contextlib.contextmanager
def history(world: SmallPlatform, action: Action) -> Iterator[None]:
    """The import of payments, which is whole or is finished by the next one: the first payment is
    answered once its rows are taken in and most snapshots are not."""
    folder = world.outside / "payments"
    offline = OfflineTable(world.home.offline(MODEL), load_definition(MODEL))
    process = world.begin("history", "import", MODEL, str(folder))
    until(lambda: offline.unfinished_import() is not None, SETTLED_S)
    yield
    action.ended = _ending(process)
    if process.returncode != 0:
        code, said = world.run("history", "import", MODEL, str(folder))
        action.again = "" if code == 0 else f"status {code}: {said}"


def write_history(folder: Path) -> None:
    """Payments up to the last midnight, in the handbook's schema."""
    folder.mkdir()
    first_day = int(time.time()) // DAY_S - DAYS
    write_payments(folder, start_ms=first_day * DAY_S * 1000, days=DAYS, population=POPULATION)


@contextlib.contextmanager
def canary(world: SmallPlatform, action: Action) -> Iterator[None]:
    """A challenger has half of the traffic; its share is raised while the disk is full."""
    arm = world.deploy(3, offset=0.02)
    world.shadow(arm)  # at once: a pass removes what no rollout and no route names
    until(lambda: arm.service in world.plane.names(), SETTLED_S)
    until(lambda: world.plane.status(arm.service).ready, SETTLED_S)
    world.canary(50.0)
    process = world.begin("rollouts", "pass", MODEL)
    time.sleep(2.0)
    yield
    action.ended = _ending(process)
    code, said = world.run("rollouts", "pass", MODEL)
    action.again = "" if code == 0 else f"status {code}: {said}"
    if world.rollouts.active(MODEL):
        world.roll_back()
    else:
        last = world.rollouts.active(MODEL, finished=True)[-1]
        action.ended += f"; a pass ended it: {last.phase}, {last.reason}"


@contextlib.contextmanager
def seal(world: SmallPlatform, action: Action) -> Iterator[None]:
    """The log is sealed again and again, before, in and after the time without room."""
    log = SqliteDecisionLog(world.home.decisions, segment_rows=SEGMENT_ROWS)
    sealer = _Repetition(log.seal)
    try:
        with sealer:
            yield
            whole = sealer.done
            until(lambda: sealer.done > whole, SETTLED_S)
            action.again = "" if sealer.done > whole else f"no seal: {sealer.error}"
    finally:
        log.close()
    action.ended = f"{whole} seals, {sealer.failed} failed: {sealer.error}"


class _Repetition:
    """Does something over and over in a thread of its own."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.done = self.failed = 0
        self.error = ""
        self._do = do
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            try:
                self._do()
            except (PlatformError, OSError, httpx.HTTPError) as error:
                self.failed, self.error = self.failed + 1, str(error)
            else:
                self.done += 1


@contextlib.contextmanager
def later(world: SmallPlatform, action: Action) -> Iterator[None]:
    """Requests to be scored later, and labels of what was scored, with retries by key."""
    sender = _Sender(world)
    sending = _Repetition(sender.send)
    with sending:
        time.sleep(1.0)
        yield
        time.sleep(1.0)
    action.ended = f"{sending.done} sent, {sending.failed} refused: {sending.error}"
    action.acknowledged = len(sender.ids) + len(sender.labelled)
    if not sender.labelled:
        action.again = "no request for later was accepted"
    until(lambda: not _missing(world, sender), SETTLED_S)
    action.lost = len(_missing(world, sender))
    action.doubled = _doubled(world, sender)


@dataclass
class _Sender:
    world: SmallPlatform
    ids: list[str] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        url = f"{self.world.url}/api/v2/models/{MODEL}"
        self._event_ms = int(time.time() * 1000)  # a key's body is the same each time
        self._client = httpx.Client(base_url=url, headers=self.world.headers, timeout=5.0)

    def send(self) -> None:
        """One request and the label of it; the same again where it was refused."""
        keyed = {"Idempotency-Key": f"async-{self.number}"}  # later-… are the payments
        body = payment(customer=1 + self.number % 100, event_time=self._event_ms)
        taken = self._client.post("/score:async", json=body, headers=keyed)
        taken.raise_for_status()
        decision_id = taken.json()["decision_id"]
        self.ids.append(decision_id)
        self.number += 1
        label = {"decision_id": decision_id, "label": 0}
        self._client.post("/labels", json={"labels": [label]}).raise_for_status()
        self.labelled.append(decision_id)


def _missing(world: SmallPlatform, sender: _Sender) -> set[str]:
    return (set(sender.ids) - _ids(world, "decision").keys()) | (
        set(sender.labelled) - _ids(world, "label").keys()
    )


def _doubled(world: SmallPlatform, sender: _Sender) -> int:
    decisions = _ids(world, "decision")
    return sum(decisions.get(each, 1) - 1 for each in sender.ids)


def _ids(world: SmallPlatform, kind: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in world.records(kind):
        found[row["decision_id"]] = found.get(row["decision_id"], 0) + 1
    return found


def _ending(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=COMMAND_LIMIT_S)[0].strip().splitlines()
    last = next((line for line in reversed(said) if "error" in line.lower()), said[-1:] or "")
    return f"status {process.returncode}: {last if isinstance(last, str) else ''.join(last)}"


@dataclass(frozen=True, slots=True)
class DrilledMoment:
    """One moment.

    Args:
        expected: what has to hold, for a person.
        rate: of payments, a second.
        before_payments: it is asked for before the first payment of its moment comes.
    """

    expected: str
    moment: Moment
    rate: float = 30.0
    before_payments: bool = False


MOMENTS = {
    "history": DrilledMoment("payments of the past are imported", history, before_payments=True),
    "idle": DrilledMoment("one payment now and then", nothing, rate=2.0),
    "scoring": DrilledMoment("payments come as fast as a busy hour's", nothing, rate=100.0),
    "later": DrilledMoment("requests to be scored later and labels", later),
    "snapshot": DrilledMoment(
        "features are written offline and online", command("materialize", MODEL, before_s=5.0)
    ),
    "retrain": DrilledMoment(
        "a version is trained and registered", command("retrain", MODEL, *WHO, before_s=12.0)
    ),
    "canary": DrilledMoment("a challenger has half of the traffic", canary, rate=60.0),
    "seal": DrilledMoment("records go from SQLite to Parquet", seal, rate=60.0),
    "backup": DrilledMoment("the state is copied to the same disk", backup),
}
START = "start"
EXPECTED_START = "the platform is started on a full disk"
