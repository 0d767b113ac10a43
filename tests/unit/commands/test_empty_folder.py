"""What commands do in a folder without a platform: those about one say so, and make nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import pytest
import typer
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.commands.terminal.exit_codes import FAILED, UNAVAILABLE, USAGE, exit_code
from mlplatform.runtime.errors import PlatformError

ROOT: Final = Path(__file__).parents[3]
DECISION: Final = "0198c2f0a4b7d1e2f3a4b5c6d7e8f90211a2b3c4d5"
WHY: Final = ("--actor", "ana", "--reason", "it is asked for")
SAYS: Final = "`mlplatform up` makes it; if it is elsewhere, set MLPLATFORM_HOME to the platform's"

READERS: Final = {
    "events receivers": (),
    "features status": ("fraud",),
    "keys list": (),
    "log explain": (DECISION,),
    "log show": (DECISION,),
    "log status": (),
    "log verify": (),
    "models card": ("fraud", "1"),
    "models compare": ("fraud", "1", "2"),
    "models show": ("fraud",),
    "refusals": (),
    "replay": ("fraud", "--version", "2"),
    "review corrections": ("fraud",),
    "review list": ("fraud",),
    "rollouts list": (),
    "rollouts plan": ("fraud",),
    "rollouts replay": ("fraud-v2-1",),
    "rollouts show": ("fraud-v2-1",),
    "skew": ("fraud",),
    "trace": (DECISION,),
    "variants show": ("fraud",),
}
"""Commands that only show what a platform has, with arguments."""

ACTS: Final = {
    "backup": ("backup.tar",),
    "batch": ("fraud", "--input", "rows.parquet", "--output", "scores"),
    "events replay": ("risk-desk",),
    "history windows": ("fraud",),
    "keys create": ("--name", "shop", "--model", "fraud", "--scope", "score"),
    "keys revoke": ("shop",),
    "labels import": ("fraud", "labels.csv"),
    "log erase": ("--unit", "7", "--dry-run", *WHY),
    "log give-up": ("gateway-1",),
    "log retention": ("--dry-run",),
    "log void": (DECISION, "--reason", "sent twice"),
    "models feast": ("fraud",),
    "models store": ("fraud",),
    "review correct": (DECISION, "fraud", "--analyst", "ana", "--reason", "the wrong key"),
    "review record": (DECISION, "fraud", "--analyst", "ana"),
    "rollouts abort": ("fraud-v2-1", *WHY),
    "rollouts approve": ("fraud-v2-1", "--decision", "approve", "--approver", "bo"),
    "rollouts clear": ("fraud", *WHY),
    "rollouts kill": ("fraud", *WHY),
    "rollouts lift": ("fraud", *WHY),
    "rollouts pass": ("fraud", "--dry-run"),
    "rollouts pause": ("fraud-v2-1", *WHY),
    "rollouts resume": ("fraud-v2-1", *WHY),
    "rollouts rollback": ("fraud", "--without-prefect", *WHY),
    "variants end": ("fraud", *WHY),
    "variants raise": ("fraud", "--version", "5=30", *WHY),
    "variants start": ("fraud", "--version", "5=20", *WHY),
}
"""Commands that change what a platform has, with arguments."""

ELSEWHERE: Final = {
    "drift": "Prefect runs it",
    "events test": "sends to a receiver, whose file a setting names",
    "materialize": "Prefect runs it",
    "retrain": "Prefect runs it",
    "rollouts open": "Prefect runs it",
    "score": "asks the gateway, with the key of the home",
    "validate": "Prefect runs it",
    "worker": "a process of its own",
}
"""Commands that need nothing but what they ask, with the reason."""

FIRST: Final = {
    "check-model": "a folder of a model",
    "cluster check": "a cluster before anything runs on it",
    "doctor": "this machine",
    "down": "says that nothing runs",
    "events verify": "a body and a signature",
    "features import": "data before the first start",
    "features render": "a folder of a model",
    "features schema": "a folder of a model",
    "features take-over": "a new home takes the place of a lost one",
    "history generate": "data before the first start",
    "history import": "data before the first start",
    "history schema": "a folder of a model",
    "models list": "folders of models, and that no champion is known",
    "new-model": "a folder of a model",
    "quickstart": "makes a platform",
    "restore": "into an empty home",
    "settings": "the table of settings",
    "status": "says that nothing runs",
    "up": "makes a platform",
}
"""Commands that work before there is a platform, with what they are about."""

LEAVE_NOTHING: Final = {
    "check-model": (str(ROOT / "models/fraud"),),
    "doctor": (),
    "down": (),
    "history schema": ("fraud",),
    "models list": (),
    "settings": (),
    "status": (),
}
"""Those of them that only look, with arguments."""


MAKERS_REFUSED: Final = {
    "features import": ("fraud", "customer_master", "none.parquet"),
    "history generate": ("fraud", "--days", "1", "--seed", "-1"),
    "history import": ("fraud", "bad.csv"),
    "up": ("--profile", "cluster"),
}
"""Commands that make a home, with arguments that they refuse."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in a shell without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", dict(os.environ))  # `up` and `quickstart` set variables
    monkeypatch.delenv("MLPLATFORM_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def ended(name: str, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Exit code of a command, and all that it printed or would print for its error."""
    done = CliRunner().invoke(app, [*name.split(), *arguments])
    if isinstance(done.exception, PlatformError):
        return exit_code(done.exception), str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def commands(group: typer.Typer, prefix: str = "") -> set[str]:
    """The names of all commands, with the groups that they are in."""
    own = {
        prefix + (one.name or getattr(one.callback, "__name__", "").replace("_", "-"))
        for one in group.registered_commands
    }
    for one in group.registered_groups:
        assert one.typer_instance is not None
        own |= commands(one.typer_instance, f"{prefix}{one.name or one.typer_instance.info.name} ")
    return own


def test_every_command_is_of_one_kind() -> None:
    kinds = (READERS.keys(), ACTS.keys(), ELSEWHERE.keys(), FIRST.keys())
    assert sorted(name for kind in kinds for name in kind) == sorted(commands(app))


@pytest.mark.parametrize(("name", "arguments"), (READERS | ACTS).items(), ids=READERS | ACTS)
def test_a_command_about_a_platform_says_that_there_is_none(
    name: str, arguments: tuple[str, ...], folder: Path
) -> None:
    code, said = ended(name, arguments)
    assert (code, SAYS in " ".join(said.split())) == (USAGE, True), said
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "arguments"), LEAVE_NOTHING.items(), ids=LEAVE_NOTHING)
def test_a_command_that_needs_no_platform_works_and_leaves_nothing(
    name: str, arguments: tuple[str, ...], folder: Path
) -> None:
    code, said = ended(name, arguments)
    assert code in {"status": (UNAVAILABLE,), "doctor": (0, FAILED)}.get(name, (0,)), said
    assert said
    assert list(folder.iterdir()) == []


BAD: Final = "request_id,event_time,customer_id,terminal_id,amount,label\n1,no,7,1,-9.5,0\n"


@pytest.mark.parametrize(("name", "arguments"), MAKERS_REFUSED.items(), ids=MAKERS_REFUSED)
def test_a_maker_of_homes_that_refuses_leaves_none(
    name: str, arguments: tuple[str, ...], folder: Path
) -> None:
    (folder / "bad.csv").write_text(BAD)
    done = CliRunner().invoke(app, [*name.split(), *arguments])
    assert done.exception is not None
    assert done.exit_code != 0
    assert [path.name for path in folder.iterdir()] == ["bad.csv"]


OTHERS: Final = {
    **READERS,
    **ACTS,
    **MAKERS_REFUSED,
    "features take-over": (),
    "quickstart": ("fraud",),
    "restore": ("backup.tar",),
    "up": (),
}
"""Commands with arguments; some of them would make a home."""


@pytest.mark.parametrize(("name", "arguments"), OTHERS.items(), ids=OTHERS)
def test_a_folder_of_other_files_is_left_as_it_is(
    name: str, arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `MLPLATFORM_HOME=/etc` by mistake."""
    own = folder / "own"
    (own / "conf.d").mkdir(parents=True)
    (own / "conf.d" / "hosts").write_text("mine")
    own.chmod(0o755)
    (folder / "bad.csv").write_text(BAD)
    monkeypatch.setenv("MLPLATFORM_HOME", str(own))
    monkeypatch.setattr("mlplatform.commands.first_hour.quickstart.check_ports", lambda *_: None)
    monkeypatch.setattr("mlplatform.commands.platform.check_ports", lambda *_: None)
    code, _ = ended(name, arguments)
    assert code != 0
    assert stat.S_IMODE(own.stat().st_mode) == 0o755
    assert [str(path.relative_to(own)) for path in sorted(own.rglob("*"))] == [
        "conf.d",
        "conf.d/hosts",
    ]
