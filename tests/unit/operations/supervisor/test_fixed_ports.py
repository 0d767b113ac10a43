"""Nobody else listens where a process of the platform is asked with a token."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlplatform.operations.supervisor.listeners import Listeners
from mlplatform.operations.supervisor.platform import children
from mlplatform.operations.supervisor.spec import HttpCheck
from mlplatform.operations.supervisor.start import check_ports
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Busy
from support.other_platform import platform_of
from support.ports import free_ports

FIXED = ("GATEWAY", "PREFECT", "MLFLOW", "PAGE")


def test_the_supervisor_listens_on_every_fixed_port_before_a_child_starts(tmp_path: Path) -> None:
    """A child that listened for itself would leave its port to anybody until then, and the token
    of its check to who took it."""
    ports = dict(zip(FIXED, free_ports(len(FIXED)), strict=True))
    given = {f"MLPLATFORM_{name}_PORT": str(port) for name, port in ports.items()}
    specs = children(load({"MLPLATFORM_HOME": str(tmp_path / "home"), **given}))
    asked = [s for s in specs if isinstance(s.check, HttpCheck) and s.check.port is not None]
    assert {s.check.port for s in asked} == {s.shared_port for s in asked}  # type: ignore[union-attr]
    listeners = Listeners(specs)
    try:
        for port in ports.values():
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", port))
        assert all(listeners.of(spec) is not None for spec in asked)
    finally:
        listeners.close()


def test_all_ports_that_are_taken_are_named_at_once(tmp_path: Path) -> None:
    """Who moved one at a time would start four times."""
    ports = dict(zip(FIXED, free_ports(len(FIXED)), strict=True))
    given = {f"MLPLATFORM_{name}_PORT": str(port) for name, port in ports.items()}
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home"), **given})
    home, specs = settings.home, children(settings)
    check_ports(home, specs)
    with (
        socket.create_server(("127.0.0.1", ports["GATEWAY"])),
        pytest.raises(
            Busy, match=rf"^port {ports['GATEWAY']} of gateway-0 can't be used \(Address"
        ),
    ):
        check_ports(home, specs)
    with (
        socket.create_server(("127.0.0.1", ports["GATEWAY"])),
        socket.create_server(("127.0.0.1", ports["PAGE"])),
        pytest.raises(Busy) as caught,
    ):
        check_ports(home, specs)
    assert f"{ports['GATEWAY']} (MLPLATFORM_GATEWAY_PORT)" in str(caught.value)
    assert f"{ports['PAGE']} (MLPLATFORM_PAGE_PORT)" in str(caught.value)
    assert str(ports["MLFLOW"]) not in str(caught.value)


def test_a_platform_that_holds_the_ports_is_named_with_its_home(tmp_path: Path) -> None:
    """After `quickstart`, the next command may be meant for the platform that it left running."""
    with platform_of(tmp_path / "other") as (_, port):
        ports = {
            f"MLPLATFORM_{name}_PORT": str(free)
            for name, free in zip(FIXED, free_ports(4), strict=True)
        }
        given = ports | {"MLPLATFORM_PREFECT_PORT": str(port)}
        settings = load({"MLPLATFORM_HOME": str(tmp_path / "home"), **given})
        with pytest.raises(Busy) as caught:
            check_ports(settings.home, children(settings))
    other = tmp_path / "other"
    assert str(caught.value).endswith(
        f"; a platform runs in {other}: export MLPLATFORM_HOME={other}"
    )


def test_nobody_else_listens_for_grpc_while_no_gateway_does(tmp_path: Path) -> None:
    """Callers would send their keys there, and no gateway would start as long as they do."""
    (port,) = free_ports(1)
    given = {"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_GATEWAY_GRPC_PORT": str(port)}
    moved = {
        f"MLPLATFORM_{name}_PORT": str(p) for name, p in zip(FIXED, free_ports(4), strict=True)
    }
    gateways = [s for s in children(load(given | moved)) if s.name.startswith("gateway-")]
    listeners = Listeners([*gateways, *gateways])
    try:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        socket.create_server(("127.0.0.1", port), reuse_port=True).close()  # as gRPC does
    finally:
        listeners.close()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Busy, match="GRPC_PORT"):
        Listeners(gateways)


def test_nobody_else_answers_a_browser_that_asks_for_localhost(tmp_path: Path) -> None:
    """It asks `::1` first, and a page of somebody else's there is of the same origin."""
    (port,) = free_ports(1)
    given = {"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_PAGE_PORT": str(port)}
    (page,) = (spec for spec in children(load(given)) if spec.name == "page")
    listeners = Listeners([page])
    try:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("::1", port), family=socket.AF_INET6)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", port))
    finally:
        listeners.close()
    socket.create_server(("::1", port), family=socket.AF_INET6).close()


def test_who_listens_there_before_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        given = {"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_PAGE_PORT": str(port)}
        (page,) = (spec for spec in children(load(given)) if spec.name == "page")
        Listeners([page]).close()
    assert f"another program listens at [::1]:{port}, beside page" in caplog.text
