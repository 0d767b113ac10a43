"""Several gateways and their predictors under a real supervisor; routes are moved as a pass would.

As a script: `gateways_world.py [workers]` runs the supervisor for the settings in its environment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from mlplatform.model.routes import Arm, Routes
from mlplatform.operations import wiring
from mlplatform.operations.supervisor.platform import gateway, later_workers, workers
from mlplatform.operations.supervisor.status import status
from mlplatform.operations.supervisor.supervisor import Supervisor
from mlplatform.rollouts.bundles.background import BackgroundFetches
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.processes.records import ProcessRecord, read_processes
from support.scoring_world import MODEL, SOURCE, ScoringWorld, wait_for

START_S = 40.0


class GatewaysWorld(ScoringWorld):
    """A home folder with gateways that run from the first moment on."""

    def __init__(
        self, root: Path, gateways: int = 2, *, workers: bool = False, **environment: str
    ) -> None:
        super().__init__(root)
        self.names = [f"gateway-{number}" for number in range(gateways)]
        variables = {
            **os.environ,
            "PYTHONPATH": f"{SOURCE}{os.pathsep}{Path(__file__).parents[1]}",
            "MLPLATFORM_HOME": str(self.home.root),
            "MLPLATFORM_GATEWAY_PORT": str(self.port),
            "MLPLATFORM_GATEWAYS": str(gateways),
            **environment,
        }
        with (self.home.logs / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, __file__, *(["workers"] if workers else [])],
                env=variables,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: status(self.home).state == "ready", START_S)

    def start_predictor(self, arm: Arm) -> None:
        """The supervisor starts it, as its manifest is there."""
        wait_for(lambda: self.plane.status(arm.service).ready, START_S)

    def applied(self, routes: Routes) -> Routes:
        """These routes, once every gateway reports them."""
        wait_for(lambda: self.generations() == dict.fromkeys(self.names, routes.generation))
        return routes

    def generations(self) -> dict[str, int | None]:
        return {lease.gateway: lease.generation for lease in self.rollouts.gateways(MODEL)}

    def process(self, name: str) -> ProcessRecord:
        return next(record for record in read_processes(self.home) if record.name == name)

    def pids(self) -> list[int]:
        found = [record.process for record in read_processes(self.home)]
        return [process.pid for process in found if process is not None]

    def kill(self, name: str) -> int:
        """SIGKILL; the process id."""
        process = self.process(name).process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        return process.pid

    def await_successor(self, name: str, of: int) -> None:
        """Returns when another process of that name is ready."""

        def is_back() -> bool:
            record = self.process(name)
            other = record.process is not None and record.process.pid != of
            return other and record.state == "ready"

        wait_for(is_back, START_S)

    @contextlib.contextmanager
    def client_of(self, name: str) -> Iterator[httpx.Client]:
        """A client of that very process."""
        url = f"http://127.0.0.1:{self.process(name).port}/api/v1/models/{MODEL}"
        with httpx.Client(base_url=url, headers=self.headers, timeout=10.0) as client:
            yield client

    def close(self) -> None:
        if self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGTERM)
            try:
                self.supervisor.wait(START_S)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()
                self.supervisor.wait()
        super().close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = load(os.environ)
    specs = [gateway(settings, f"gateway-{n}") for n in range(settings.gateways)]
    has_workers = "workers" in sys.argv
    specs += workers(settings) if has_workers else []
    more = later_workers(settings) if has_workers else tuple
    fetches = BackgroundFetches(wiring.Platform(settings).bundles)
    Supervisor(settings.home, specs, more=more, fetches=fetches).run()
