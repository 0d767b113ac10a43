"""Servers as tests use them: started here or in containers, or those that the environment names."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import pg8000.native
from botocore.config import Config
from tests.servers.containers import place_of
from tests.servers.dex import DexServer
from tests.servers.kafka.broker import Broker
from tests.servers.postgres import USER, PostgresServer
from tests.servers.process import new_folder
from tests.servers.proxy import Proxy
from tests.servers.seaweed import SeaweedServer
from tests.servers.valkey import ValkeyServer

from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address, Brokers
from mlplatform.runtime.storage.redis import client
from support.ports import free_port


@dataclass(frozen=True)
class Postgres:
    """A server that tests make databases on; None: it is somebody else's and is not killed."""

    address: Address
    server: PostgresServer | None
    version: str

    def database(self) -> Address:
        """An empty database, by way of TLS where the server is ours."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name}", self.address)
        url = self.address.url.replace(f"/{self.address.name}", f"/{name}")
        return dataclasses.replace(self.address, name=name, url=url)

    def drop(self, database: Address) -> None:
        self.run(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)", self.address)

    def run(self, statement: str, database: Address) -> list[list[object]]:
        """A statement as an administrator would run it, past every adapter."""
        with pg8000.native.Connection(
            user=database.user,
            host=database.host,
            port=database.port,
            database=database.name,
            password=database.password(),
            ssl_context=None,
        ) as connection:
            return connection.run(statement) or []


@dataclass(frozen=True)
class Redis:
    """A server one of whose databases tests may empty."""

    address: Address
    server: ValkeyServer | None
    version: str

    def empty(self) -> None:
        with contextlib.closing(client(self.address, answer_s=10)) as made:
            made.flushdb()


@dataclass(frozen=True)
class S3:
    """A server that tests make buckets on.

    Args:
        environment: what AWS's SDK reads.
    """

    environment: dict[str, str]
    server: SeaweedServer | None
    version: str

    def client(self, **changes: str) -> Any:
        given = self.environment | changes
        return boto3.client(
            "s3",
            endpoint_url=given["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            region_name=given["AWS_DEFAULT_REGION"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@dataclass(frozen=True)
class Kafka:
    """Brokers of Kafka; our own by TLS, with a user."""

    brokers: Brokers
    server: Broker | None
    version: str


@dataclass(frozen=True)
class Dex:
    """An identity provider, and the port of the page that it sends browsers back to."""

    server: DexServer
    page_port: int
    version: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def secret(self) -> str:
        return self.server.secret

    def kill(self) -> None:
        self.server.kill()


def postgres() -> Postgres:
    """POSTGRES_URL (and POSTGRES_URL_PASSWORD_FILE), or a server of our own."""
    given = addresses.postgres("POSTGRES_URL", os.environ)
    if given is not None:
        found = Postgres(given, None, "")
        ((version,),) = found.run("SHOW server_version", given)
        return dataclasses.replace(found, version=f"PostgreSQL {version}, given")
    server = PostgresServer(place_of("postgres"))
    return Postgres(
        postgres_address(server.port, server.password_file, server.certificates.authority),
        server,
        server.version,
    )


def postgres_address(port: int, password: Path, authority: Path | None) -> Address:
    options = {"sslrootcert": str(authority)} if authority else {"sslmode": "disable"}
    environment = {
        "U": f"postgresql://{USER}@127.0.0.1:{port}/postgres?{urlencode(options)}",
        "U_PASSWORD_FILE": str(password),
    }
    found = addresses.postgres("U", environment)
    assert found is not None
    return found


def redis() -> Redis:
    """REDIS_URL (and REDIS_URL_PASSWORD_FILE), or a server of our own."""
    given = addresses.redis("REDIS_URL", os.environ)
    if given is not None:
        return Redis(given, None, "given")
    server = ValkeyServer(place_of("redis"))
    address = redis_address(server.port, server.password_file, None)
    return Redis(address, server, server.version)


def s3() -> S3:
    """S3_ENDPOINT, with the keys of AWS's variables, or a server of our own."""
    endpoint, names = os.environ.get("S3_ENDPOINT"), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    region = {"AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "us-east-1")}
    if endpoint:
        keys = {name: os.environ[name] for name in names}
        return S3({"AWS_ENDPOINT_URL_S3": endpoint, **keys, **region}, None, "given")
    server = SeaweedServer(place_of("s3"))
    keys = dict(zip(names, (server.access_key, server.secret_key), strict=True))
    return S3({"AWS_ENDPOINT_URL_S3": server.endpoint, **keys, **region}, server, server.version)


def kafka() -> Kafka:
    """KAFKA_BOOTSTRAP (and KAFKA_BOOTSTRAP_PASSWORD_FILE), or a broker of our own."""
    given = addresses.kafka("KAFKA_BOOTSTRAP", os.environ)
    if given is not None:
        return Kafka(given, None, "given")
    broker = Broker(new_folder("kafka"))
    return Kafka(broker.brokers("USERS"), broker, broker.version)


def dex() -> Dex:
    """A Dex of our own."""
    port = free_port()
    server = DexServer(f"http://127.0.0.1:{port}/sign-in/return")
    return Dex(server, port, server.version)


def redis_address(port: int, password: Path, authority: Path | None) -> Address:
    scheme, options = ("rediss", {"ssl_ca_certs": str(authority)}) if authority else ("redis", {})
    environment = {
        "U": f"{scheme}://127.0.0.1:{port}/0?{urlencode(options)}",
        "U_PASSWORD_FILE": str(password),
    }
    found = addresses.redis("U", environment)
    assert found is not None
    return found


def behind(proxy: Proxy, address: Address) -> Address:
    """The same server by way of a proxy."""
    url = address.url.replace(f":{address.port}", f":{proxy.port}")
    return dataclasses.replace(address, port=proxy.port, url=url)
