"""A stopped home's key and tokens go to no platform of another home on the same port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.commands.terminal.hints import hint
from mlplatform.runtime.configuration.servers import Servers
from mlplatform.runtime.configuration.settings import Settings, load
from mlplatform.runtime.errors import MissingHere, Unavailable
from mlplatform.runtime.processes.credentials import api_key, mlflow_token, prefect_login
from mlplatform.runtime.processes.port_holders import Holder, holders, other_home
from support.other_platform import platform_of
from support.ports import free_ports

CREDENTIALS = [
    pytest.param(api_key, "GATEWAY", "the gateway", id="the API key"),
    pytest.param(prefect_login, "PREFECT", "Prefect", id="the operator's token"),
    pytest.param(mlflow_token, "MLFLOW", "MLflow", id="the registry's token"),
]


def stopped(home: Path, name: str, port: int) -> Settings:
    """A home whose platform has run before, on this port."""
    settings = load({"MLPLATFORM_HOME": str(home), f"MLPLATFORM_{name}_PORT": str(port)})
    settings.home.create()
    for path in (settings.home.api_key, settings.home.prefect_token, settings.home.mlflow_token):
        path.write_text("secret")
    return settings


@pytest.mark.parametrize(("credential", "name", "what"), CREDENTIALS)
def test_another_homes_platform_on_the_port_gets_nothing(
    tmp_path: Path, credential: Callable[[Settings], str], name: str, what: str
) -> None:
    other = tmp_path / "other"
    with platform_of(other) as (_, port):
        settings = stopped(tmp_path / "home", name, port)
        with pytest.raises(Unavailable, match=f"^{what} of .*/home does not run") as caught:
            credential(settings)
        assert f"the platform of {other} answers on port {port}" in str(caught.value)
        free = zip(("GATEWAY", "PREFECT", "MLFLOW", "PAGE"), map(str, free_ports(4)), strict=True)
        environment = {f"MLPLATFORM_{one}_PORT": number for one, number in free}
        environment |= {f"MLPLATFORM_{name}_PORT": str(port)}
        environment |= {"MLPLATFORM_HOME": str(tmp_path / "home")}
        way = f"a platform runs in {other}: export MLPLATFORM_HOME={other}"
        assert hint(caught.value, environment).startswith(way)
        assert hint(MissingHere("platform", tmp_path / "home"), environment) == way
        assert hint(ValueError("x"), environment) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(("credential", "name", "what"), CREDENTIALS)
def test_a_server_that_a_setting_names_is_asked_as_it_is(
    tmp_path: Path, credential: Callable[[Settings], str], name: str, what: str
) -> None:
    with platform_of(tmp_path / "other") as (_, port):
        url = f"http://127.0.0.1:{port}"
        servers = Servers(gateway=url, prefect=url, mlflow=url)
        settings = replace(stopped(tmp_path / "home", name, port), servers=servers)
        assert credential(settings).endswith("secret"), what


@pytest.mark.parametrize(("credential", "name", "what"), CREDENTIALS)
def test_a_process_of_the_same_home_and_one_of_no_platform_are_asked(
    tmp_path: Path, credential: Callable[[Settings], str], name: str, what: str
) -> None:
    """A gateway may run without a supervisor; a tunnel to a platform holds its port too."""
    with platform_of(tmp_path / "link") as (_, port):
        (tmp_path / "link").symlink_to(tmp_path / "home")
        assert credential(stopped(tmp_path / "home", name, port)).endswith("secret"), what
    with platform_of(tmp_path / "other", "tunnel") as (_, port):
        assert credential(stopped(tmp_path / "home", name, port)).endswith("secret"), what


@pytest.mark.parametrize(
    ("word", "is_platform"),
    [
        ("/x/.venv/bin/mlplatform", True),
        ("mlplatform.process", True),
        ("mlplatform.commands", True),
        ("/home/ana/mlplatform/notebook.py", False),
        ("mlplatform_client", False),
    ],
)
def test_a_platform_is_known_by_its_command_not_by_its_folder(
    tmp_path: Path, word: str, is_platform: bool
) -> None:
    with platform_of(tmp_path / "other", word) as (pid, port):
        home = load({"MLPLATFORM_HOME": str(tmp_path / "home")}).home
        (held,) = holders({port}, home).values()
    assert (held.pid, held.home) == (pid, tmp_path / "other" if is_platform else None)


def test_only_a_platform_of_another_home_is_another() -> None:
    root = Path("/a")
    assert other_home([], root) is None
    assert other_home([Holder(1, "nginx", None), Holder(2, "python", root)], root) is None
    assert other_home([Holder(2, "python", root), Holder(3, "x", Path("/b"))], root) == Path("/b")
