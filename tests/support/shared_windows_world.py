"""Gateways with logs of their own and one state of windows on a server, and their logs in one.

As a script: `shared_windows_world.py FOLDER NAME` projects the log of a folder into the server that
the environment names (SHARED), until it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import ReplicationReader
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows import projector as projector_module
from mlplatform.learning.features.windows.build import build_shared
from mlplatform.learning.features.windows.projector import ProjectorThread, WindowProjector
from mlplatform.learning.features.windows.redis import RedisWindowReads, RedisWindows, state_of
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address
from support.windows_world import Gateway, definition_with_windows

ANSWER_S = 10.0
BATCH = 7
"""Records of one step of a projector that is killed: a burst takes several."""


def store_of(address: Address, definition: ModelDefinition) -> RedisWindows:
    own = state_of(definition.windows, definition.entities)
    return RedisWindows(address, definition.name, own, answer_s=ANSWER_S)


class SharedGateway(Gateway):
    """A gateway whose log is in a folder of its own, below that of all."""

    def __init__(
        self, address: Address, root: Path, definition: ModelDefinition, name: str
    ) -> None:
        self.name = name
        self._definition = definition
        self.folder = root / name
        self.log = SqliteDecisionLog(self.folder)
        self.store = store_of(address, definition)
        self.reads = RedisWindowReads(self.store, definition.windows, definition.entities)
        stores = [store_of(address, definition)]
        self.projector = WindowProjector(self.folder, name, stores, SystemClock(), refresh_s=0.0)

    def close(self) -> None:
        self.projector.close()
        super().close()

    def write(self, records: Sequence[Record]) -> None:
        super().write(records)
        self.project()

    def project(self) -> None:
        while self.projector.step():
            pass


class UnprojectedGateway(SharedGateway):
    """One whose log another process projects."""

    def project(self) -> None: ...


def replica_table(root: Path, definition: ModelDefinition, names: Sequence[str]) -> OfflineTable:
    """What is known offline, of the logs of gateways replicated into one."""
    home = root / "home"
    with closing(SqliteDecisionLog(home)) as log, closing(ReplicaLog(home)) as into:
        for name in names:
            with closing(SqliteDecisionLog(root / name)) as own:
                reader = ReplicationReader(root / name, own)
                heads = {mark.writer: mark.seq for mark in log.watermarks()}
                while records := reader.records(name, after=heads.get(name, 0), limit=1_000):
                    into.replicate(records)
                    heads[name] = records[-1].seq
        offline = OfflineTable(home / "offline", definition)
        offline.project(log)
    return offline


def begin(root: Path, address: Address, definition: ModelDefinition) -> int:
    """Build the state of what the one log holds, as an operator does."""
    offline = replica_table(root, definition, [])
    with (
        closing(SqliteDecisionLog(root / "home")) as log,
        closing(store_of(address, definition)) as store,
    ):
        return build_shared(store, offline, log)


def projector_process(folder: Path, name: str, address: Address) -> subprocess.Popen[bytes]:
    variables = addresses.variables("SHARED", address)
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), name],
        env={**os.environ, **variables, "PYTHONPATH": path},
    )


def main() -> None:
    folder, name = sys.argv[1:]
    address = addresses.redis("SHARED", os.environ)
    assert address is not None
    store = store_of(address, definition_with_windows())
    projector = WindowProjector(Path(folder), name, [store], SystemClock())
    projector_module.BATCH = BATCH
    ProjectorThread(projector, poll_s=0.001).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
