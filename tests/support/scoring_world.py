"""A gateway process over real predictors, log and journal; routes are moved as a pass would."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import COLUMNS, Kind
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.model.bundle import (
    MODEL_FILE,
    AlertBand,
    Bundle,
    DataWindow,
    Golden,
    View,
    load_bundle,
    write_bundle,
)
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.model.profile import Column, Profile
from mlplatform.model.routes import Arm, Routes
from mlplatform.model.rules import parse_reasons, parse_rules
from mlplatform.rollouts.journal.journal import Fence
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import (
    Answered,
    CanaryStepped,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
)
from mlplatform.rollouts.serving.local import LocalPlane, ServiceStatusFile, StatusStore, bundle_uri
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.storage.files import write_atomically
from support.ports import free_port
from support.probe import status_of
from support.snapshots import write_snapshots

MODEL = "fraud"
GATEWAY = "gateway-0"
SERVED = "1"
"""The version that `serving` promotes, as requests name it."""
START_S = 60.0
SOURCE = Path(__file__).parents[2] / "platform" / "src"


def amount_model(offset: float) -> bytes:
    """scores = amount / 1000 + offset, within 0 and 1: whatever else is missing."""
    width = len(load_definition(MODEL).inputs)
    weights = [
        numpy_helper.from_array(np.array(0, dtype=np.int64), "first"),
        numpy_helper.from_array(np.array(0.001, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.array(offset, dtype=np.float32), "offset"),
        numpy_helper.from_array(np.array(0, dtype=np.float32), "low"),
        numpy_helper.from_array(np.array(1, dtype=np.float32), "high"),
    ]
    nodes = [
        helper.make_node("Gather", ["inputs", "first"], ["amount"], axis=1),
        helper.make_node("Mul", ["amount", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "amount",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def write_amount_bundle(folder: Path, offset: float = 0.0) -> str:
    """A bundle that reviews from 500 on and declines from 900 on; returns its digest."""
    definition = load_definition(MODEL)
    names = [i.name for i in definition.inputs]
    data = amount_model(offset)
    row = (300.0, *([0.0] * (len(names) - 1)))
    flat = Column((1.0,), (0.5, 0.5), (0.5,), 0.5, 0.2, 0.0)
    source = model_folder(MODEL)
    bundle = Bundle(
        model=MODEL,
        inputs=definition.inputs,
        calibration=Calibration(x=(0.0, 1.0), y=(0.0, 1.0)),
        thresholds={"review": 0.5, "decline": 0.9},
        reasons=dict(
            parse_reasons((source / "reasons.yaml").read_text(), source="reasons", inputs=names)
        ),
        rules=parse_rules(
            (source / "rules.yaml").read_text(),
            source="rules",
            inputs=names,
            decisions=EARLIER.names,
        ),
        reference=dict.fromkeys(names, 0.0),
        golden=Golden(rows=(row,), scores=(0.3 + offset,), tolerance=1e-4),
        views=tuple(View(name=v.name, ttl_ms=v.ttl_ms) for v in load_views(source)),
        profile=Profile(
            rows=100,
            units=50,
            inputs=dict.fromkeys(names, flat),
            score=flat,
            alert_share=0.01,
        ),
        alert_band=AlertBand(low=0.0, high=0.1, share=0.01, how="by hand"),
        data=DataWindow(
            from_ms=0, holdout_from_ms=1, gates_from_ms=2, to_ms=3, as_of_ms=4, rows=100, digest="0"
        ),
        seed=0,
        origin="test",
        files={MODEL_FILE: digest(data)},
    )
    return write_bundle(bundle, data, folder)


@dataclass
class RunningPredictor:
    """A predictor process and where it listens."""

    arm: Arm
    process: subprocess.Popen[bytes]


def write_home_snapshots(home: Home) -> None:
    """Snapshots of now, in the store of a home folder."""
    views = load_views(model_folder(MODEL))
    with contextlib.closing(FeastSqlite(home.online_db, project_name(MODEL), views)) as online:
        write_snapshots(online, MODEL, time.time_ns() // 1_000_000)


class ScoringWorld:
    """Home folder, predictors and one gateway; everything ends with `close`.

    Args:
        rollouts: where the gateway is told to find its routes; None: in the home folder.
        has_snapshots: whether views of features are up to date in the home folder, without a row
            of anybody who pays.
    """

    asks_for_token = True
    """Whether its predictors do, as processes of this machine; pods rely on their network."""

    def __init__(
        self, root: Path, rollouts: SqlRollouts | None = None, *, has_snapshots: bool = True
    ) -> None:
        self.home = Home(root / "var")
        self.home.create()
        if has_snapshots:
            write_home_snapshots(self.home)
        write_atomically(self.home.predictor_token, secrets.token_hex(16).encode())
        self.rollouts = rollouts or SqliteRollouts(self.home.rollouts_db)
        self.plane = LocalPlane(self.home.serving)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.predictors: dict[str, RunningPredictor] = {}
        self._gateway: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._rollout = 0
        self._challenger: Arm | None = None

    def deploy(
        self, version: int, offset: float = 0.0, write: Callable[[Path], str] | None = None
    ) -> Arm:
        """A bundle version with a predictor that is ready; the bundle is the one that `write`
        puts into a folder, if it is given."""
        draft = self.home.bundles / f"draft-{version}"
        bundle = write(draft) if write else write_amount_bundle(draft, offset)
        draft.rename(self.home.bundles / bundle)
        return self.serve(version, bundle)

    def serve(self, version: int, bundle: str) -> Arm:
        """A version of a bundle of the home folder, with a predictor that is ready."""
        folder = self.home.bundles / bundle
        assert load_bundle(folder).digest == bundle
        manifest = render(
            load_definition(MODEL), version, bundle, bundle_uri(folder, self.home.bundles)
        )
        self.plane.apply(manifest)
        arm = Arm(version, bundle, manifest["metadata"]["name"])
        self.start_predictor(arm)
        return arm

    def start_predictor(self, arm: Arm) -> None:
        address = self.home.run / f"{arm.service}.address.json"
        address.unlink(missing_ok=True)
        process = self._start(
            "predictor",
            "--model-dir", str(self.home.bundles / arm.bundle),
            "--model-name", arm.service,
            "--address-file", str(address),
            *(("--token-file", str(self.home.predictor_token)) if self.asks_for_token else ()),
        )  # fmt: skip
        self.predictors[arm.service] = RunningPredictor(arm, process)
        port = wait_for(lambda: json.loads(address.read_bytes())["port"] if address.exists() else 0)
        headers = {"Authorization": f"Bearer {self.home.predictor_token.read_text()}"}
        ready_url = f"http://127.0.0.1:{port}/v2/models/{arm.service}/ready"
        wait_for(lambda: status_of(ready_url, headers) == 200)
        self.tell_address(arm, port)

    def tell_address(self, arm: Arm, port: int, host: str = "127.0.0.1") -> None:
        """Gateways that look for the arm's predictor find this port, as a supervisor would say."""
        pid = self.predictors[arm.service].process.pid
        StatusStore(self.home.serving).write(
            ServiceStatusFile(arm.service, True, "", 0, pid, port, int(time.time() * 1000), host)
        )

    def predictor_port(self, arm: Arm) -> int:
        """Where the real predictor listens."""
        address = self.home.run / f"{arm.service}.address.json"
        return int(json.loads(address.read_bytes())["port"])

    def kill_predictor(self, arm: Arm) -> None:
        process = self.predictors[arm.service].process
        process.kill()
        process.wait()

    @contextlib.contextmanager
    def frozen_predictor(self, arm: Arm) -> Iterator[None]:
        """It takes connections, and answers nothing."""
        process = self.predictors[arm.service].process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def thaw(self) -> None:
        """Every predictor goes on."""
        for running in self.predictors.values():
            running.process.send_signal(signal.SIGCONT)

    def promote(self, arm: Arm) -> Routes:
        """The arm becomes champion at once."""
        before = self.rollouts.routes(MODEL)
        is_first = before.champion is None
        rollout_id = self._opened(arm, bootstrap=is_first, emergency=not is_first)
        routes = Routes(
            MODEL, before.generation + 1, arm, None, before.champion, rollout_id, "steady", 0.0
        )
        promoted = Promoted(**self._fact(rollout_id), predecessor=before.champion)
        self._commit(promoted, routes)
        if not is_first:  # a second person confirms it, so that another one may follow
            asked = {"approver": "second", "bound_to": promoted.evidence_digest}
            answered = Answered(**self._fact(rollout_id), answer="approve", **asked)
            self.rollouts.commit(answered, None)
        return self.applied(routes)

    def shadow(self, arm: Arm) -> Routes:
        rollout_id = self._opened(arm, bootstrap=False)
        self._challenger, self._rollout_id, self._step = arm, rollout_id, -1
        routes = self._ramped("shadow", 0.0)
        self._commit(ShadowStarted(**self._fact(rollout_id), displaced=None), routes)
        return self.applied(routes)

    def canary(self, percent: float, *, wait: bool = True) -> Routes:
        """A share for the arm that is in shadow or canary."""
        self._step += 1
        routes = self._ramped("canary", percent)
        fact = self._fact(self._rollout_id)
        self._commit(CanaryStepped(**fact, step=self._step, percent=percent), routes)
        return self.applied(routes) if wait else routes

    def roll_back(self) -> Routes:
        before = self.rollouts.routes(MODEL)
        routes = Routes(
            MODEL,
            before.generation + 1,
            before.champion,
            None,
            before.previous,
            None,
            "steady",
            0.0,
        )
        self._commit(RolledBack(**self._fact(self._rollout_id)), routes)
        return self.applied(routes)

    def applied(self, routes: Routes) -> Routes:
        """These routes, once a running gateway reports them."""
        if self._gateway is not None:
            wait_for(
                lambda: any(
                    lease.gateway == GATEWAY and lease.generation == routes.generation
                    for lease in self.rollouts.gateways(MODEL)
                )
            )
        return routes

    def _ramped(self, phase: Any, percent: float) -> Routes:
        before = self.rollouts.routes(MODEL)
        return Routes(
            MODEL,
            before.generation + 1,
            before.champion,
            self._challenger,
            before.previous,
            self._rollout_id,
            phase,
            percent,
        )

    def _opened(self, arm: Arm, *, bootstrap: bool, emergency: bool = False) -> str:
        self._rollout += 1
        rollout_id = f"{MODEL}-r{self._rollout}"
        opened = Opened(
            **self._fact(rollout_id),
            challenger=arm,
            author="test",
            alert_low=0.0,
            alert_high=1.0,
            bootstrap=bootstrap,
            emergency=emergency,
            approval="none",
        )
        self.rollouts.commit(opened, None)
        return rollout_id

    def _fact(self, rollout_id: str) -> dict[str, Any]:
        return {
            "rollout_id": rollout_id,
            "model": MODEL,
            "event_ms": 0,
            "wall_ms": 0,
            "actor": "test",
            "reason": "test",
        }

    def _commit(self, fact: Any, routes: Routes) -> None:
        fence: Fence | None = self.rollouts.acquire(MODEL, "test", 60.0)
        assert fence is not None
        self.rollouts.commit(fact, fence, routes)

    def start_gateway(self, *args: str, at: str = "127.0.0.1", **environment: str) -> None:
        self._gateway = self._start("gateway", *args, **environment)
        wait_for(lambda: status_of(f"http://{at}:{self.port}/readyz") == 200)

    def kill_gateway(self) -> None:
        assert self._gateway is not None
        self._gateway.kill()
        self._gateway.wait()

    def stop_gateway(self) -> int:
        """SIGTERM; its exit status."""
        assert self._gateway is not None
        self._gateway.terminate()
        return self._gateway.wait(20)

    def start_worker(self, model: str | None = None) -> None:
        """One that publishes the log's records too."""
        self._worker = self._start("worker", "--model", model or MODEL, "--outbox")

    def kill_worker(self) -> None:
        assert self._worker is not None
        self._worker.kill()
        self._worker.wait()

    def answered_by(self) -> str:
        """Who answers a payment now."""
        url = f"{self.url}/api/v1/models/{MODEL}/score"
        found = httpx.post(url, json=payment(), headers=self.headers, timeout=5)
        assert found.status_code == 200, found.text
        return str(found.json()["answered_by"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.api_key.read_text()}"}

    def client(self, *, keeps_alive: bool = True) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.url}/api/v1/models/{MODEL}",
            headers=self.headers,
            timeout=10.0,
            verify=False,  # no TLS on loopback, and reading certificates takes 30 ms a client
            limits=httpx.Limits(max_keepalive_connections=None if keeps_alive else 0),
        )

    def records(self, *kinds: Kind) -> list[dict[str, Any]]:
        """All records of these kinds, payload decoded."""
        log = SqliteDecisionLog(self.home.decisions)
        try:
            table: pa.Table = log.read(
                RecordQuery(model=MODEL, kinds=kinds, columns=tuple(COLUMNS))
            )
        finally:
            log.close()
        rows: list[dict[str, Any]] = table.to_pylist()
        return [row | {"payload": json.loads(row["payload"])} for row in rows]

    def pids(self) -> list[int]:
        """Of all processes that answer requests."""
        processes = [running.process for running in self.predictors.values()]
        return [p.pid for p in (*processes, self._gateway, self._worker) if p]

    def close(self) -> None:
        processes = [running.process for running in self.predictors.values()]
        processes += [p for p in (self._gateway, self._worker) if p]
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.rollouts.close()

    def _start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        log = (self.home.logs / f"{name}.log").open("ab")
        variables: dict[str, str] = {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "MLPLATFORM_HOME": str(self.home.root),
            "MLPLATFORM_GATEWAY_PORT": str(self.port),
            **environment,
        }
        # Feast, once imported by another test of this process, sets them, and Prometheus warns.
        for variable in ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"):
            variables.pop(variable, None)
        with log:
            return subprocess.Popen(
                command(name, *arguments), env=variables, stdout=log, stderr=log
            )


@contextmanager
def serving(folder: Path) -> Iterator[ScoringWorld]:
    """A gateway over one version that answers."""
    world = ScoringWorld(folder)
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        yield world
    finally:
        world.close()


def wait_for(condition: Callable[[], Any], within_s: float = START_S) -> Any:
    """The first true value of a condition."""
    end_s = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)
    return value


def payment(amount: float = 40.0, customer: int = 7, **changes: Any) -> dict[str, Any]:
    """A request body, now."""
    body = {
        "customer_id": customer,
        "terminal_id": 3,
        "amount": amount,
        "event_time": int(time.time() * 1000),
    }
    return body | changes
