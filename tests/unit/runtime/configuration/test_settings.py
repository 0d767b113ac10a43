"""Settings: every variable has a default, a wrong one is named, and the home is its owner's."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

import pytest

from mlplatform.runtime.configuration import kinds, variables
from mlplatform.runtime.configuration.declarations import (
    CONSTANTS,
    DEFAULTS,
    PREFIX,
    SETTINGS,
    Setting,
)
from mlplatform.runtime.configuration.settings import Home, Settings, load
from mlplatform.runtime.errors import ConfigInvalid, SettingsInvalid

ROOT = Path(__file__).parents[4]
PATHS = (kinds.FILE, kinds.FOLDER, kinds.SECRET_FILE)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_without_variables_the_platform_lives_in_var_on_its_usual_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({})
    assert settings.home.root == tmp_path / "var"
    assert settings.clock == "system"
    assert settings.gateway_url == "http://127.0.0.1:8080"
    assert (settings.prefect_port, settings.mlflow_port) == (4200, 5000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "variable",
    ["MLPLATFORM_GATEWAY_PORT", "MLPLATFORM_PREFECT_PORT", "MLPLATFORM_MLFLOW_PORT"],
)
@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "80.5", "http", "8080 ", "8²"])
def test_a_port_that_is_none_is_named_with_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"wanted: a port, 1 to 65535") as caught:
        load({variable: text})
    assert caught.value.key == variable
    assert f"{variable} is {text!r}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "0", "-1", "65", "two", "1.5"])
def test_a_number_of_gateways_that_is_none_is_named_with_its_variable(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="wanted: gateway processes, 1 to 64") as caught:
        load({"MLPLATFORM_GATEWAYS": text})
    assert caught.value.key == "MLPLATFORM_GATEWAYS"


@pytest.mark.parametrize("text", ["", "simulated", "Replay"])
def test_a_clock_that_is_none_is_named_with_its_variable(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="wanted: system or replay") as caught:
        load({"MLPLATFORM_CLOCK": text})
    assert caught.value.key == "MLPLATFORM_CLOCK"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"MLPLATFORM_PREFECT_PORT": "8080"},
            "MLPLATFORM_PREFECT_PORT is 8080; wanted: another port than that of "
            "MLPLATFORM_GATEWAY_PORT",
        ),
        (
            {"MLPLATFORM_GATEWAY_GRPC_PORT": "5000"},
            "MLPLATFORM_MLFLOW_PORT is 5000; wanted: another port than that of "
            "MLPLATFORM_GATEWAY_GRPC_PORT",
        ),
    ],
)
def test_two_settings_with_one_port_are_both_named(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(given)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("MLPLATFORM_GATEWAY_PRT", "MLPLATFORM_GATEWAY_PORT, or remove it"),
        ("MLPLATFORM_REDIS_PASWORD_FILE", "MLPLATFORM_REDIS_PASSWORD_FILE, or remove it"),
        ("MLPLATFORM_OIDC_ISSUERS", "MLPLATFORM_OIDC_ISSUER, or remove it"),
        (
            "MLPLATFORM_MAX_IN_FLIGHT",
            "no such variable: it is 1024 in every installation; remove it",
        ),
        ("MLPLATFORM_", "a setting that docs/settings.md names, or remove it"),
        ("MLPLATFORM_TEST", "a setting that docs/settings.md names, or remove it"),
    ],
)
def test_a_variable_that_nothing_reads_is_named_with_the_nearest_that_something_does(
    name: str, wanted: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load({name: "a secret"})
    assert f"{name!r}; wanted: {wanted}" in str(caught.value)
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLPLATFORM_LIFELINE_FD", "7"),
        ("MLPLATFORM_LISTEN_FD", "8"),
        ("MLPLATFORM_TEST_ACCELERATOR", "cuda"),
        ("MLPLATFORM_TRANSACTIONS", "payments"),
        ("MLPLATFORM_INGRESS_SERVICE_HOST", "10.0.0.1"),
        ("MLPLATFORM_INGRESS_SERVICE_PORT_HTTP", "80"),
        ("MLPLATFORM_INGRESS_PORT", "tcp://10.0.0.1:80"),
        ("MLPLATFORM_INGRESS_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("PREFECT_API_URL", "http://127.0.0.1:1/api"),
    ],
)
def test_what_others_put_into_the_environment_is_no_setting(name: str, value: str) -> None:
    assert load({name: value}) == load({})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(
            {
                "MLPLATFORM_GATEWAY_PRT": "80",
                "MLPLATFORM_PAGE_PORT": "eighty",
                "MLPLATFORM_CLOCK": "sun",
                "MLPLATFORM_ARGO_NAMESPACE": "jobs",
                "MLPLATFORM_MLFLOW_PORT": "8080",
                "MLPLATFORM_POSTGRES": "postgresql://u:hidden@db/platform",
                "MLPLATFORM_OTLP_ENDPOINT": "http://u:hidden@collector",
                "PREFECT_API_AUTH_STRING": "hidden",
            }
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 settings are wrong:"
    assert {line.split(" is ")[0].strip() for line in lines[1:]} == {
        "a variable of the environment",
        "MLPLATFORM_PAGE_PORT",
        "MLPLATFORM_CLOCK",
        "MLPLATFORM_ARTIFACTS",
        "MLPLATFORM_MLFLOW_PORT",
        "MLPLATFORM_POSTGRES",
        "MLPLATFORM_OTLP_ENDPOINT",
        "PREFECT_API_AUTH_STRING",
    }
    assert "MLPLATFORM_GATEWAY_PORT, or remove it" in lines[1]
    assert all("; wanted: " in line for line in lines[1:])
    assert "hidden" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_path_at_most() -> None:
    """`os.environ` has them as halves of characters."""
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_PROFILE") as caught:
        load({"MLPLATFORM_PROFILE": "\udc80"})
    assert caught.value.__cause__ is None
    assert load({"MLPLATFORM_HOME": "/tmp/\udc80"}).home.root == Path("/tmp/\udc80")


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s.type not in PATHS], ids=lambda s: s.name
)
def test_what_is_of_no_type_is_refused_by_name(setting: Setting) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load({setting.variable: " \t"})
    assert setting.variable in str(caught.value)


@pytest.mark.parametrize("value", ["shared", "strict"])
def test_keys_that_gateways_share_need_their_server(value: str) -> None:
    with pytest.raises(ConfigInvalid, match="MLPLATFORM_REDIS"):
        load({"MLPLATFORM_KEY_CLAIMS": value})
    redis = {"MLPLATFORM_REDIS": "redis://cache/0"}
    assert load({"MLPLATFORM_KEY_CLAIMS": value, **redis}).key_claims == value


def test_a_child_process_gets_the_same_settings(tmp_path: Path) -> None:
    given = {
        "MLPLATFORM_HOME": str(tmp_path),
        "MLPLATFORM_CLOCK": "replay",
        "MLPLATFORM_GATEWAY_PORT": "1",
        "MLPLATFORM_PREFECT_PORT": "2",
        "MLPLATFORM_MLFLOW_PORT": "65535",
        "MLPLATFORM_PAGE_PORT": "3",
        "MLPLATFORM_GATEWAYS": "3",
        "MLPLATFORM_KEY_CLAIMS": "strict",
        "MLPLATFORM_DURABILITY": "disk",
        "MLPLATFORM_SPILL_MAX_MIB": "7",
        "MLPLATFORM_JOB_PROCESSES": "2",
        "MLPLATFORM_ARGO_NAMESPACE": "jobs",
        "MLPLATFORM_ARTIFACTS": "s3://artifacts/jobs?region=eu-central-1",
        "MLPLATFORM_KAFKA": "kafka+ssl://u@broker-1:9093,broker-2:9093?ssl.ca.location=/ca.pem",
        "MLPLATFORM_KAFKA_PASSWORD_FILE": "/run/secrets/kafka",
        "MLPLATFORM_GATEWAY_GRPC_PORT": "9081",
        "MLPLATFORM_OTLP_ENDPOINT": "https://collector:4318",
        "MLPLATFORM_LOG_LEVEL": "debug",
        "MLPLATFORM_TRACE_SHARE": "0.25",
        "MLPLATFORM_POSTGRES": "postgresql://u@db/platform",
        "MLPLATFORM_POSTGRES_PASSWORD_FILE": "/run/secrets/db",
        "MLPLATFORM_REDIS": "rediss://cache:6380/0?ssl_ca_certs=/ca.pem",
        "MLPLATFORM_MLFLOW_POSTGRES": "postgresql://m@db/mlflow",
        "MLPLATFORM_MLFLOW_ARTIFACTS": "s3://models/mlflow",
        "MLPLATFORM_GATEWAY_URL": "http://gateway.mlplatform",
        "MLPLATFORM_PREFECT_URL": "https://prefect.mlplatform:4200",
        "MLPLATFORM_MLFLOW_URL": "http://mlflow.mlplatform:5000",
        "MLPLATFORM_MLFLOW_TOKEN_FILE": "/run/secrets/mlflow/token",
        "MLPLATFORM_PAGE_URL": "http://page.mlplatform:8090",
        "MLPLATFORM_RECEIVERS": "/etc/mlplatform/receivers.yaml",
        "MLPLATFORM_MODELS": "/srv/a/models:/srv/b/models",
        "MLPLATFORM_BUNDLES": "/bundles",
        "MLPLATFORM_PSEUDONYM_KEY_FILE": "/run/secrets/pseudonym",
        "MLPLATFORM_PROFILE": "cluster",
        "MLPLATFORM_KSERVE_NAMESPACE": "models",
        "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles",
        "MLPLATFORM_KSERVE_REPLICAS": "1",
    }
    settings = load(given)
    assert settings.environment() == load({}).environment() | given
    assert load(settings.environment()) == settings


def test_a_constant_that_an_earlier_supervisor_hands_down_is_no_mistake() -> None:
    assert load({f"MLPLATFORM_{name}": value for name, value in CONSTANTS.items()}) == load({})
    assert load({f"MLPLATFORM_{name}": "" for name in CONSTANTS}) == load({})


def test_every_variable_that_code_or_pages_name_is_known() -> None:
    """One that only they know would keep the platform from starting."""
    folders = [ROOT / name for name in ("platform/src", "flows", "docs", ".ci")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    texts = [f.read_text(errors="replace") for f in (*files, ROOT / "README.md", ROOT / "Makefile")]
    names = {n for text in texts for n in re.findall(r"MLPLATFORM_[A-Z_]*[A-Z]\b", text)}
    assert len(names) > 25
    assert list(variables.unknown(dict.fromkeys(names, "x"))) == []


def test_servers_that_are_elsewhere_are_reached_by_their_urls(tmp_path: Path) -> None:
    settings = load(
        {
            "MLPLATFORM_HOME": str(tmp_path),
            "MLPLATFORM_MLFLOW_URL": "http://mlflow.mlplatform:5000",
            "MLPLATFORM_MLFLOW_TOKEN_FILE": "/run/secrets/mlflow/token",
        }
    )

    assert settings.mlflow_url == "http://mlflow.mlplatform:5000"
    assert settings.mlflow_token_file == Path("/run/secrets/mlflow/token")
    assert settings.prefect_url == "http://127.0.0.1:4200"
    assert load({}).mlflow_token_file == load({}).home.mlflow_token


@pytest.mark.parametrize("name", ["GATEWAY_URL", "PREFECT_URL", "MLFLOW_URL", "PAGE_URL"])
@pytest.mark.parametrize(
    "text", ["mlflow:5000", "http://", "http://a/path", "http://u:p@a", "http://a:port", "a"]
)
def test_an_address_that_is_none_is_named_with_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"MLPLATFORM_{name}.*http://host:port"):
        load({f"MLPLATFORM_{name}": text})


def test_prefects_password_is_neither_shown_nor_passed_on() -> None:
    settings = load({"PREFECT_API_AUTH_STRING": "operators:hidden"})

    assert settings.servers.prefect_auth == "operators:hidden"
    assert "hidden" not in repr(settings) + repr(settings.environment())
    with pytest.raises(ConfigInvalid, match="user:password") as caught:
        load({"PREFECT_API_AUTH_STRING": "hidden"})
    assert "hidden" not in str(caught.value)


def test_bundles_may_lie_on_a_volume_outside_the_home_folder(tmp_path: Path) -> None:
    shared = tmp_path / "volume"
    home = load({"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_BUNDLES": str(shared)}).home

    home.create()

    assert home.bundles == shared
    assert not (home.root / "bundles").exists()
    assert not shared.exists()  # MLflow's pod is told of the volume, and has it not


@pytest.mark.usefixtures("open_umask")
def test_the_home_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "home")
    home.create()
    for folder in (home.root, home.secrets, home.run, home.logs, home.bundles):
        assert mode(folder) == 0o700


def test_git_takes_nothing_of_a_home_that_lies_in_a_repository(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    home = Home(tmp_path / "home")
    home.create()
    (home.secrets / "approval.key").write_text("secret")
    status = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(status, check=True, capture_output=True).stdout == b""


def test_a_list_of_ignored_files_that_is_there_already_stays(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / ".gitignore").write_text("mine\n")
    home.create()
    assert (home.root / ".gitignore").read_text() == "mine\n"


def test_a_home_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    home.root.chmod(0o755)
    home.create()
    home.create()
    assert mode(home.root) == 0o700


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MLPLATFORM_DURABILITY", "memory"),
        ("MLPLATFORM_DURABILITY", ""),
        ("MLPLATFORM_SPILL_MAX_MIB", "0"),
        ("MLPLATFORM_SPILL_MAX_MIB", "-1"),
        ("MLPLATFORM_SPILL_MAX_MIB", "65537"),
    ],
)
def test_what_records_survive_is_said_rightly_or_not_at_all(variable: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=variable):
        load({variable: text})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LOG_LEVEL", "DEBUG"),
        ("OTLP_ENDPOINT", "collector:4318"),
        ("OTLP_ENDPOINT", "ftp://collector"),
        ("OTLP_ENDPOINT", "http://user@collector"),
        ("TRACE_SHARE", "1.1"),
        ("TRACE_SHARE", "-0.1"),
        ("TRACE_SHARE", "nan"),
        ("TRACE_SHARE", ""),
    ],
)
def test_a_wrong_setting_of_traces_is_named_with_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load({f"MLPLATFORM_{variable}": text})
    assert caught.value.key == f"MLPLATFORM_{variable}"


def test_settings_of_traces_read_back() -> None:
    given = {"MLPLATFORM_OTLP_ENDPOINT": "http://collector:4318", "MLPLATFORM_TRACE_SHARE": "0.25"}
    settings = load(given)
    assert (settings.otlp_endpoint, settings.trace_share) == ("http://collector:4318", 0.25)
    assert load(settings.environment()) == settings


def test_every_default_of_the_table_is_what_is_loaded() -> None:
    """So that the document, which is rendered from the table, is true."""
    as_given = {"MLPLATFORM_HOME": str(Path(DEFAULTS["HOME"]).absolute())}
    told = {PREFIX + name: default for name, default in DEFAULTS.items()} | as_given
    del told["MLPLATFORM_KEY_FILE"]
    assert load({}).environment() == told


def test_a_field_that_is_left_out_has_the_default_of_its_row() -> None:
    made = {f.name: f.default for f in dataclasses.fields(Settings) if f.default is not MISSING}
    for setting in SETTINGS:
        if setting.field in made:
            default = variables.value(setting, {})
            assert made[setting.field] == default or not (made[setting.field] or default)
    assert made["log_level"] == "info"


def test_a_home_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigInvalid, match=r"MLPLATFORM_HOME.*wanted: a folder that can be made"):
        load({"MLPLATFORM_HOME": str(tmp_path / "file" / "home")}).home.create()


@pytest.mark.parametrize(
    ("namespace", "artifacts", "wrong"),
    [
        ("jobs", "", "ARTIFACTS"),
        ("", "s3://bucket", "ARGO_NAMESPACE"),
        ("Jobs!", "s3://bucket", "ARGO_NAMESPACE"),
        ("jobs", "s3://key:secret@bucket", "ARTIFACTS"),
    ],
)
def test_argo_needs_a_namespace_and_artifacts(namespace: str, artifacts: str, wrong: str) -> None:
    with pytest.raises(ConfigInvalid, match=wrong):
        load({"MLPLATFORM_ARGO_NAMESPACE": namespace, "MLPLATFORM_ARTIFACTS": artifacts})
