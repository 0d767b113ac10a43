"""Ids of tests, and real servers: asked for by `--servers`, said aloud where one is missing."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from schemathesis.pytest.plugin import SchemathesisFunction

SERVERS = ("postgres", "redis", "s3", "kafka", "dex")
"""Markers of tests that need a server beside the platform's own processes."""


@dataclass
class Report:
    """What `make test-servers` says at its end."""

    versions: dict[str, str] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in SERVERS}
    )
    test_s: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        for name in SERVERS:
            counts = ", ".join(f"{n} {what}" for what, n in sorted(self.outcomes[name].items()))
            yield (
                f"{name:9} {self.versions.get(name, 'not started'):38} "
                f"started in {self.start_s.get(name, 0.0):4.1f} s; "
                f"tests: {counts or 'none'} in {self.test_s[name]:.1f} s"
            )


REPORT = Report()


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A command run in a test's own process leaves its umask of 077 to the tests after it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """A command loads its settings once in its process; the next test has an environment of its
    own. No test imports the wiring for this."""
    yield
    wiring = sys.modules.get("mlplatform.operations.wiring")
    if wiring is not None:
        wiring.forget()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        action="store_true",
        help=f"also run the tests over real servers ({', '.join(SERVERS)}); make test-servers does",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _give_ids_of_their_own(items)
    if config.getoption("--servers"):
        return
    left_out = {i for i in items if any(i.get_closest_marker(name) for name in SERVERS)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [i for i in items if i not in left_out]


def pytest_configure() -> None:
    """Collecting thousands of tests makes hardly any garbage; looking for it took half as long
    again (measured: 176 s of a core, 101 s without)."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was collected stays until the end, so no search for garbage looks at it."""
    gc.freeze()
    gc.enable()


def _give_ids_of_their_own(items: list[pytest.Item]) -> None:
    """Of two tests with one id, a worker process would run only one, and nobody would notice.

    Schemathesis names its tests for the operation that they ask, and pytest leaves that out of
    their ids.
    """
    for item in items:
        if isinstance(item, SchemathesisFunction):
            assert item.parent is not None
            item._id = item.parent.id.child(item.name)
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests have one id: {', '.join(twice)}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name in SERVERS:
        if name in report.keywords:
            REPORT.test_s[name] += report.duration
            if report.when == "call" or report.outcome != "passed":
                REPORT.outcomes[name][report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--servers"):
        terminalreporter.section("servers")
        for line in REPORT.lines():
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A `instances.Postgres`."""
    from tests.servers import instances

    with _running("postgres", instances.postgres) as found:
        yield found


@pytest.fixture(scope="session")
def redis() -> Iterator[Any]:
    """A `instances.Redis`."""
    from tests.servers import instances

    with _running("redis", instances.redis) as found:
        yield found


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A `instances.S3`."""
    from tests.servers import instances

    with _running("s3", instances.s3) as found:
        yield found


@pytest.fixture(scope="session")
def kafka_instance() -> Iterator[Any]:
    """A `instances.Kafka`."""
    from tests.servers import instances

    with _running("kafka", instances.kafka) as found:
        yield found


@pytest.fixture(scope="session")
def kafka(kafka_instance: Any) -> Any:
    """The `Brokers`."""
    return kafka_instance.brokers


@pytest.fixture
def dex() -> Iterator[Any]:
    """A `instances.Dex` of one test, which may end it."""
    from tests.servers import instances

    with _running("dex", instances.dex) as found:
        yield found


@contextlib.contextmanager
def _running(name: str, start: Callable[[], Any]) -> Iterator[Any]:
    from tests.servers.process import ServerMissing, in_ci

    began_s = time.monotonic()
    try:
        found = start()
    except ServerMissing as missing:
        message = f"{name.upper()} IS NOT TESTED: {missing}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    REPORT.versions[name] = found.version
    REPORT.start_s[name] = time.monotonic() - began_s
    yield found
    if found.server is not None:
        found.server.close()
