"""Workers of Spark as processes of their own, and one that is killed in the middle of a join."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
import pyarrow.parquet as pq
import pytest
from tests.contract.learning.training_sets.test_spark_join import cells
from tests.support.ports import free_port
from tests.support.spark_local import configured, python_path
from tests.support.train_libraries import needed

from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.snapshots import materialize
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

VIEWS = load_views(model_folder("fraud"))
T_MS: Final = 20_000 * DAY_MS
DAYS: Final = 12
DAEMON: Final = "org.apache.spark.deploy"


class Workers:
    """A master and two workers, each of one core, on loopback addresses with a shared secret."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        port = free_port()
        self.master = f"spark://127.0.0.1:{port}"
        settings = {
            "spark.master": self.master,
            "spark.authenticate.secret": secrets.token_hex(16),
            "spark.authenticate": "true",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "600m",
            "spark.executor.memory": "512m",
            "spark.sql.shuffle.partitions": "24",
            "spark.sql.adaptive.coalescePartitions.enabled": "false",
        }
        self.environment = {
            **os.environ,
            "SPARK_CONF_DIR": str(configured(folder / "conf", settings)),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_MEMORY": "256m",
            "PYTHONPATH": python_path(),
        }
        at = ["--host", "127.0.0.1", "--webui-port", "0"]
        self._start(folder, stack, "master.Master", [*at, "--port", str(port)])
        wait_until_it_listens(port)
        sizes = ["--cores", "1", "--memory", "700m"]
        self.workers = [
            self._start(
                folder, stack, "worker.Worker",
                [*at, *sizes, "--work-dir", str(folder / name), self.master],
            )
            for name in ("one", "two")
        ]  # fmt: skip

    def _start(
        self, folder: Path, stack: ExitStack, name: str, arguments: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        program = Path(needed("pyspark").__file__).parent / "bin" / "spark-class"
        log = stack.enter_context((folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [str(program), f"{DAEMON}.{name}", *arguments],
            env=self.environment, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(process.wait, 30)
        stack.callback(kill, process.pid)
        return process


def wait_until_it_listens(port: int) -> None:
    """Wait for a server to accept connections; a worker that finds none tries again after 5 s."""
    ends_s = time.monotonic() + 60
    while True:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        assert time.monotonic() < ends_s, f"nobody listens on port {port}"
        time.sleep(0.05)


def kill(pid: int) -> int:
    """Kill a process and all below it; returns how many there were."""
    try:
        first = psutil.Process(pid)
        found = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in found:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    return len(found)


@contextmanager
def driver(workers: Workers, offline: Path, result: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.spark_driver", str(offline), str(result)]
    with (
        (result.parent / "driver.log").open("w") as log,
        subprocess.Popen(
            command, env=workers.environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            kill(process.pid)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_in_the_middle_changes_no_row(tmp_path: Path) -> None:
    needed("pyspark")
    from tests.support.spark_driver import offline_at, requests_of

    offline = offline_at(tmp_path / "offline")
    population = Population(customers=60, terminals=30, payments_per_day=300, fraud_share=0.1)
    table = generate(seed=3, start_ms=T_MS, days=DAYS, population=population)
    offline.import_history(table, b"k" * 32)
    online = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    for day in range(4, DAYS):
        materialize(offline, VIEWS, T_MS + day * DAY_MS, online, T_MS + day * DAY_MS)
    online.close()
    result = tmp_path / "result.parquet"
    with ExitStack() as stack:
        workers = Workers(tmp_path, stack)
        with driver(workers, tmp_path / "offline", result) as process:
            assert process.stdout is not None
            for line in process.stdout:
                done, tasks = map(int, re.findall(r"\d+", line))
                if tasks >= 20 and 2 <= done <= tasks // 2:
                    break
            assert process.poll() is None
            assert kill(workers.workers[0].pid) >= 3  # worker, executor, Python
            for _ in process.stdout:  # it never waits for a reader
                pass
            assert process.wait(200) == 0
        assert workers.workers[1].poll() is None
    found, expected = pq.read_table(result), training_join(offline, VIEWS, requests_of(offline))
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        assert cells(found[name]) == cells(expected[name]), name
    assert re.search(r"Lost executor \d", (tmp_path / "driver.log").read_text())


def test_without_java_the_way_out_is_said() -> None:
    needed("pyspark")
    program = (
        "from mlplatform.learning.training_sets.spark_session import spark_session\n"
        "with spark_session(): pass\n"
    )
    environment = {**os.environ, "JAVA_HOME": "/nowhere", "PYTHONPATH": python_path()}
    made = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = "JAVA_HOME is '/nowhere'; wanted: the folder of a Java runtime, version 17 or later"
    assert made.returncode == 1
    assert said in made.stderr
