"""Gateways of several homes, with a log each, that share keys by claims on a real Valkey.

The homes share the journal, the API keys and the predictors of the first one, as pods share
servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import COLUMNS, Kind
from mlplatform.learning.features.feast_redis import FeastRedis
from mlplatform.learning.features.feast_values import project_name
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.model.routes import Routes
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import MODEL, SOURCE, ScoringWorld, wait_for
from support.snapshots import write_snapshots

MORTAL = Path(__file__).parent / "mortal_gateway.py"
LINKED = ("serving", "run", "bundles", "rollouts.db", "admission.db", "secrets")


@dataclass
class GatewayHome:
    """A gateway with a home of its own."""

    name: str
    home: Home
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_of(self, call: str) -> str:
        return f"{self.url}/api/v1/models/{MODEL}/{call}"

    def kill(self) -> None:
        """SIGKILL, and its end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class HomesWorld(ScoringWorld):
    """Homes with one gateway each, which run from the first moment on.

    Args:
        policy: MLPLATFORM_KEY_CLAIMS of all of them.
    """

    def __init__(
        self, root: Path, redis: Address, gateways: int = 2, policy: str = "shared"
    ) -> None:
        super().__init__(root)
        self.lost: list[Home] = []
        self._environment = {
            "MLPLATFORM_KEY_CLAIMS": policy,
            **addresses.variables("MLPLATFORM_REDIS", redis),
        }
        views = load_views(model_folder(MODEL))
        online = FeastRedis(redis, project_name(MODEL), views, answer_s=10.0)
        with contextlib.closing(online):
            write_snapshots(online, MODEL, time.time_ns() // 1_000_000)
        self.promote(self.deploy(1))
        self.gateways = [GatewayHome("gateway-0", self.home)]
        self.start(self.gateways[0])  # makes the keys that the others use
        for number in range(1, gateways):
            self.gateways.append(self._other(root, number))
            self.start(self.gateways[-1])

    def _other(self, root: Path, number: int) -> GatewayHome:
        home = Home(root / f"home-{number}")
        home.create()
        for name in LINKED:
            path = home.root / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.symlink_to(self.home.root / name)
        return GatewayHome(f"gateway-more-{number - 1}", home)

    def start(self, gateway: GatewayHome, *mortal: str) -> None:
        """Args: mortal: stage and signal of `mortal_gateway.py`, if it is to be one."""
        words = list(command("gateway", "--name", gateway.name))
        if mortal:
            words = [sys.executable, str(MORTAL), *mortal, "--name", gateway.name]
        variables = {
            **os.environ,
            "PYTHONPATH": f"{SOURCE}{os.pathsep}{MORTAL.parents[1]}",
            "MLPLATFORM_HOME": str(gateway.home.root),
            "MLPLATFORM_GATEWAY_PORT": str(gateway.port),
            "MLPLATFORM_BUNDLES": str(self.home.bundles),
            "MLPLATFORM_PSEUDONYM_KEY_FILE": str(self.home.pseudonym_key),
            **self._environment,
        }
        if gateway.home is self.home:
            del variables["MLPLATFORM_BUNDLES"], variables["MLPLATFORM_PSEUDONYM_KEY_FILE"]
        with (gateway.home.logs / f"{gateway.name}.log").open("ab") as log:
            gateway.process = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
        wait_for(lambda: status_of(f"{gateway.url}/readyz") == 200)

    def lose(self, gateway: GatewayHome) -> None:
        """The gateway and its home, for good: nothing of them is reached any more."""
        gateway.kill()
        away = gateway.home.root.with_name(f"{gateway.home.root.name}-lost")
        gateway.home.root.rename(away)
        self.gateways.remove(gateway)
        self.lost.append(Home(away))

    def send(
        self, gateway: GatewayHome, key: str, body: dict[str, Any], call: str = "score"
    ) -> httpx.Response:
        headers = {**self.headers, "Idempotency-Key": key, "X-Request-Timeout-Ms": "2000"}
        return httpx.post(gateway.url_of(call), json=body, headers=headers, timeout=10.0)

    def await_answer(
        self, gateway: GatewayHome, key: str, body: dict[str, Any], within_s: float = 30.0
    ) -> bytes:
        """The answer of a gateway, once it is no longer 409 or 503."""

        def answered() -> bytes | None:
            found = self.send(gateway, key, body)
            if found.status_code == 200:
                return found.content
            assert found.status_code in (409, 503), found.text
            assert found.headers["retry-after"] == "1"
            return None

        answer: bytes = wait_for(answered, within_s)
        return answer

    def applied(self, routes: Routes) -> Routes:
        names = {one.name for one in getattr(self, "gateways", [])}

        def reported() -> set[str]:
            leases = self.rollouts.gateways(MODEL)
            return {g.gateway for g in leases if g.generation == routes.generation}

        wait_for(lambda: names <= reported())
        return routes

    def all_records(self, *kinds: Kind, lost: bool = True) -> list[dict[str, Any]]:
        """Records of all homes, those that are lost too unless said otherwise."""
        homes = [one.home for one in self.gateways] + (self.lost if lost else [])
        return [record for home in homes for record in records_of(home, *kinds)]

    def standing(self, *, lost: bool = True) -> list[dict[str, Any]]:
        """Decisions that no void takes back."""
        voided = {r["decision_id"] for r in self.all_records("void", lost=lost)}
        decisions = self.all_records("decision", lost=lost)
        return [r for r in decisions if r["decision_id"] not in voided]

    def counted(self, gateway: GatewayHome, outcome: str) -> float:
        """The gateway's count of claims with this outcome."""
        return self._metric(gateway, f'mlplatform_gateway_key_claims_total{{outcome="{outcome}"}}')

    def waiting(self, gateway: GatewayHome) -> float:
        """How many keys of a gateway wait for their store."""
        return self._metric(gateway, "mlplatform_gateway_key_claims_waiting")

    def _metric(self, gateway: GatewayHome, name: str) -> float:
        text = httpx.get(f"{gateway.url}/metrics", headers=self.headers, timeout=5.0).text
        found = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0].split()[-1]) if found else 0.0

    def close(self) -> None:
        for gateway in self.gateways:
            if gateway.process is not None:
                gateway.kill()
        super().close()


def records_of(home: Home, *kinds: Kind) -> list[dict[str, Any]]:
    """All records of these kinds in a home's log, payload decoded."""
    log = SqliteDecisionLog(home.decisions)
    try:
        query = RecordQuery(model=MODEL, kinds=kinds, columns=tuple(COLUMNS))
        table: pa.Table = log.read(query)
    finally:
        log.close()
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row | {"payload": json.loads(row["payload"])} for row in rows]
