"""The page's own token of Prefect in a pod: where it is read, and that it is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlplatform.observing.page.process import schedules_of
from mlplatform.observing.page.queries import schedules
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.operations.prefect_server.prefect_access import reads_schedules
from mlplatform.operations.prefect_server.prefect_gate import PrefectSecrets
from mlplatform.operations.prefect_server.server import parser, tokens
from mlplatform.runtime.configuration.settings import Settings, load
from mlplatform.runtime.errors import ConfigInvalid
from support.prefect_standin import prefect_standin


def server(tmp_path: Path) -> Settings:
    told = {"MLPLATFORM_HOME": str(tmp_path), "PREFECT_API_AUTH_STRING": "platform:all"}
    return load(told)


def test_the_server_reads_the_pages_token_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "prefect-reader"
    assert parser().parse_args(["--reader-file", str(file)]).reader_file == file
    assert tokens(server(tmp_path), file) == PrefectSecrets("all", "", ""), "it may be left out"
    file.write_text("reader:of the page\n")
    assert tokens(server(tmp_path), file) == PrefectSecrets("all", "", "of the page")
    assert tokens(server(tmp_path)) == PrefectSecrets("all", "")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("of the page", "reader:SECRET, with a secret of your own"),
        ("reader:", "reader:SECRET, with a secret of your own"),
        ("platform:of the page", "reader:SECRET, with a secret of your own"),
        ("reader:all", "another token than that of PREFECT_API_AUTH_STRING"),
    ],
)
def test_a_token_that_is_none_or_may_do_everything_is_refused(
    tmp_path: Path, text: str, wanted: str
) -> None:
    file = tmp_path / "prefect-reader"
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match=wanted) as refused:
        tokens(server(tmp_path), file)
    assert str(file) in str(refused.value)
    assert "of the page" not in str(refused.value)


def test_the_page_asks_nothing_that_its_token_does_not_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    call = PrefectApi._call

    def noted(self: PrefectApi, method: str, path: str, *rest: Any, **more: Any) -> Any:
        sent.append((method, f"/api{path}"))
        return call(self, method, path, *rest, **more)

    monkeypatch.setattr(PrefectApi, "_call", noted)
    monkeypatch.setattr(schedules, "EACH", 1)  # single deployments are asked for too
    with prefect_standin() as port:
        pod = load({
            "MLPLATFORM_HOME": str(tmp_path),
            "MLPLATFORM_PAGE_URL": "https://page.bank.example",
            "MLPLATFORM_PREFECT_URL": f"http://127.0.0.1:{port}",
            "PREFECT_API_AUTH_STRING": "reader:of the page",
        })  # fmt: skip
        asked = schedules_of(pod)
        assert asked is not None
        assert asked.read().active
    assert len(sent) > 3
    assert all(reads_schedules(method, path) for method, path in sent)


def test_a_page_in_a_pod_without_the_token_asks_nothing(tmp_path: Path) -> None:
    told = {"MLPLATFORM_HOME": str(tmp_path), "MLPLATFORM_PAGE_URL": "https://page.bank.example"}
    assert schedules_of(load(told)) is None
