"""Starts and stops one Kafka broker (KRaft: broker and controller in one process)."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.servers.process import ServerMissing

from support.ports import free_ports

HERE = Path(__file__).parent
LIBS = HERE.parents[2] / "build" / "servers" / "kafka" / "libs"
START_S = 60.0
JAVA = (
    "java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)  # fmt: skip
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
"""


class Broker:
    """A running broker; its data go when it is closed."""

    def __init__(self, folder: Path) -> None:
        """Raises ServerMissing."""
        _fetch()
        self._folder = folder
        self.version = f"Kafka {_version()}"
        self.bootstrap = ""
        self._process = self._started()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _started(self) -> subprocess.Popen[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        port, controller = free_ports(2)
        config = self._folder / "server.properties"
        config.write_text(
            PROPERTIES.format(port=port, controller=controller, data=self._folder / "data")
        )
        path = ("-cp", f"{LIBS}/*")
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        subprocess.run(
            [*JAVA, *path, "kafka.tools.StorageTool", "format", "--standalone",
             "-t", f"A{cluster[1:]}", "-c", str(config)],
            check=True, capture_output=True,
        )  # fmt: skip
        with (self._folder / "kafka.log").open("wb") as log:
            process = subprocess.Popen(
                [*JAVA, *path, "kafka.Kafka", str(config)], stdout=log, stderr=log
            )
        self.bootstrap = f"127.0.0.1:{port}"
        self._wait(process, port)
        return process

    def _wait(self, process: subprocess.Popen[bytes], port: int) -> None:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        process.kill()
        raise RuntimeError(f"Kafka did not start:\n{(self._folder / 'kafka.log').read_text()}")


def _fetch() -> None:
    if shutil.which("java") is None:
        raise ServerMissing("no Java on this machine")
    if any(LIBS.glob("kafka_*.jar")):
        return
    if shutil.which("mvn") is None:
        raise ServerMissing("no Maven on this machine, and the broker's jars are not in build/")
    command = ["mvn", "-B", "-q", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    done = subprocess.run([*command, f"-Dlibs={LIBS}"], capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerMissing(f"Maven did not get the broker's jars: {done.stdout[-300:]}")


def _version() -> str:
    jar = next(LIBS.glob("kafka_*.jar"))
    return jar.stem.rpartition("-")[2]
