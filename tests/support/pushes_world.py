"""A model with an external view over two gateway processes of one home, which take pushes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.operations import wiring
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.runtime.storage import addresses
from support import scoring_world
from support.external_world import NAME, model_with_table
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import START_S, ScoringWorld, wait_for
from support.snapshots import write_snapshots
from support.team_folder import team_folder

MOST_ASKED = 100
NAMES = ("bureau_score", "open_loans", "is_listed")


class PushedWorld(ScoringWorld):
    """Two gateway processes, either of which may be killed and started again."""

    def __init__(self, root: Path, rollouts: SqlRollouts | None = None) -> None:
        super().__init__(root, rollouts)
        self.ports = {"gateway-0": self.port, "gateway-1": free_port()}
        self.gateways: dict[str, subprocess.Popen[bytes]] = {}
        self.promote(self.deploy(1))
        for name in self.ports:
            self.start(name)
        for name in self.ports:
            self.wait(name)

    def start(self, name: str) -> None:
        port = str(self.ports[name])
        self.gateways[name] = self._start("gateway", "--name", name, MLPLATFORM_GATEWAY_PORT=port)

    def wait(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        wait_for(lambda: status_of(url) == 200, 3 * START_S)

    def kill(self, name: str) -> None:
        self.gateways[name].kill()
        self.gateways[name].wait()

    def url_of(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def push(
        self, *rows: Any, to: str = "gateway-0", key: str | None = None, **headers: str
    ) -> httpx.Response:
        sent = {**self.headers, **headers} | ({} if key is None else {"Idempotency-Key": key})
        url = f"{self.url_of(to)}/api/v2/features/bureau"
        return httpx.post(url, json={"rows": list(rows)}, headers=sent, timeout=10)

    def score(self, customer: int, to: str) -> str:
        """The id of a decision about a customer, whose features came in time: the machine may be
        busy, and then a server's answer comes too late."""
        url = f"{self.url_of(to)}/api/v2/models/{NAME}/score"
        sent = self.headers | {"X-Request-Timeout-Ms": "5000"}
        for _ in range(MOST_ASKED):
            body = {"customer_id": customer, "terminal_id": 3, "amount": 40.0}
            body["event_time"] = int(time.time() * 1000)
            found = httpx.post(url, json=body, headers=sent, timeout=10)
            assert found.status_code == 200, found.text
            if not (found.json()["feature_gaps"] or {}).get("unavailable"):
                return str(found.json()["decision_id"])
        raise AssertionError("features never came in time")

    def served(self) -> dict[str, dict[str, float | None]]:
        """Decision → what it read of the view."""
        return {
            one["decision_id"]: {name: features[name] for name in NAMES}
            for one in self.records("decision")
            if NAMES[0] in (features := one["payload"]["features"])
        }

    def close(self) -> None:
        for process in self.gateways.values():
            process.kill()
            process.wait()
        super().close()


def row(customer: int, score: float | None, **changes: Any) -> dict[str, Any]:
    """Values that hold since some seconds."""
    values = {
        "bureau_score": score,
        "open_loans": None if score is None else int(score),
        "is_listed": None if score is None else score > 5,
    }
    event_ms = int(time.time() * 1000) - 2_000
    return {"customer_id": customer, "as_of": event_ms, **values, **changes}


def values(score: float) -> dict[str, float | None]:
    """What a request reads of `row`."""
    return {
        "bureau_score": score, "open_loans": float(int(score)), "is_listed": float(score > 5)
    }  # fmt: skip


@contextmanager
def pushed_world(root: Path, postgres: Any = None, redis: Any = None) -> Iterator[PushedWorld]:
    """With both servers, or with none."""
    model_with_table(root / "models")
    with team_folder(root / "models", root / "var"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring_world, "MODEL", NAME)
        rollouts = None
        if postgres is not None:
            redis.empty()
            database = postgres.database()
            variables = addresses.variables("MLPLATFORM_POSTGRES", database)
            variables |= addresses.variables("MLPLATFORM_REDIS", redis.address)
            for name, value in variables.items():
                patch.setenv(name, value)
            wiring.settings.cache_clear()
            rollouts = PostgresRollouts(database)
            with closing(wiring.Platform(wiring.settings()).online(NAME)) as online:
                write_snapshots(online, NAME, time.time_ns() // 1_000_000)
        world = PushedWorld(root, rollouts)
        try:
            yield world
        finally:
            world.close()
