"""Starts and stops one Kafka broker (KRaft: broker and controller in one process)."""

from __future__ import annotations

import base64
import dataclasses
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from tests.servers import certificates
from tests.servers.process import Process, ServerMissing

from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Brokers
from support.ports import free_ports

HERE = Path(__file__).parent
LIBS = HERE.parents[2] / "build" / "servers" / "kafka" / "libs"
START_S = 60.0
USER = "platform"
LISTENERS = {
    "PLAIN": "127.0.0.1",
    "TLS": "127.0.0.1",
    "USERS": "127.0.0.1",
    "STRANGER": "127.0.0.2",  # its certificate is not of that name
}
"""Name and address: without TLS; with TLS, without and with users."""
ELSEWHERE = "ELSEWHERE"
"""The listener of those who reach the broker by another name and port, as by a proxy."""
JAVA = (
    "java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)  # fmt: skip
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=PLAIN
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,TLS:SSL,USERS:SASL_SSL,\
  STRANGER:SASL_SSL,ELSEWHERE:SASL_SSL
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.users.scram-sha-512.sasl.jaas.config={module} required;
listener.name.stranger.scram-sha-512.sasl.jaas.config={module} required;
listener.name.elsewhere.scram-sha-512.sasl.jaas.config={module} required;
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
    """A running broker; its data go when it is closed.

    Args:
        folder: of its data, which outlive a kill.
        known_as: `host:port` by which those elsewhere know it, of one more listener, `ELSEWHERE`,
            by TLS and with users; empty: there is none.
    """

    def __init__(self, folder: Path, known_as: str = "") -> None:
        """Raises ServerMissing."""
        _fetch()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.version = f"Kafka {_version()}"
        self._known_as = known_as
        hosts = [known_as.rpartition(":")[0]] if known_as else []
        self.certificates = certificates.make(folder, hosts)
        self.password = secrets.token_urlsafe(16)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{self.password}\n")
        self._hosts = LISTENERS | ({ELSEWHERE: "127.0.0.1"} if known_as else {})
        self.ports = dict(zip(self._hosts, free_ports(len(self._hosts)), strict=True))
        self.bootstrap = self.listener("PLAIN")
        java = (*JAVA, "-cp", f"{LIBS}/*")
        config = self._configured(java)
        command = [*java, "kafka.Kafka", config]
        self._process = Process(command, folder, self.ports["PLAIN"])
        self._process.start()
        self.let_in(USER, self.password)

    def listener(self, name: str) -> str:
        """`host:port` of the listener of that name."""
        return f"{self._hosts[name]}:{self.ports[name]}"

    def brokers(self, listener: str, **changes: Any) -> Brokers:
        """The broker as its clients name it, by one of its listeners with TLS."""
        user = "" if listener == "TLS" else f"{USER}@"
        options = urlencode({"ssl.ca.location": self.certificates.authority})
        environment = {"KAFKA": f"kafka+ssl://{user}{self.listener(listener)}?{options}"}
        environment |= {"KAFKA_PASSWORD_FILE": str(self.password_file)} if user else {}
        found = addresses.kafka("KAFKA", environment)
        assert found is not None
        return dataclasses.replace(found, **changes)

    def let_in(self, user: str, password: str) -> None:
        """A user with that password from now on."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, credential, password.encode())
        for done in admin.alter_user_scram_credentials([change]).values():
            done.result(START_S)

    def kill(self) -> None:
        """As a power cut of the process: SIGKILL; what it wrote is there."""
        self._process.kill()

    def start(self) -> None:
        """On the ports and data that it had; returns once it takes connections."""
        self._process.start()

    def close(self) -> None:
        self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _advertised(self, name: str) -> str:
        return self._known_as if name == ELSEWHERE else self.listener(name)

    def _configured(self, java: Sequence[str]) -> str:
        """Path of the configuration, of which the storage is formatted."""
        shown = self.certificates
        keystore, config = self._folder / "keystore.pem", self._folder / "server.properties"
        keystore.touch(mode=0o600)
        keystore.write_bytes(shown.key.read_bytes() + shown.certificate.read_bytes())
        (controller,) = free_ports(1)
        config.write_text(
            PROPERTIES.format(
                listeners=",".join(f"{name}://{self.listener(name)}" for name in self._hosts),
                advertised=",".join(f"{name}://{self._advertised(name)}" for name in self._hosts),
                controller=controller,
                keystore=keystore,
                module="org.apache.kafka.common.security.scram.ScramLoginModule",
                data=self._folder / "data",
            )
        )
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "--standalone",
             "-t", f"A{cluster[1:]}", "-c", str(config)],
            check=True, capture_output=True,
        )  # fmt: skip
        return str(config)


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
