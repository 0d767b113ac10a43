"""A worker's command lines take the batch sizes that model.yaml takes, and no others."""

from __future__ import annotations

import msgspec
import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from mlplatform.commands import app
from mlplatform.model.policies.serving import AsyncPolicy
from mlplatform.scoring.worker.process import parser


def by_process(batch: str) -> bool:
    try:
        options = parser().parse_args(["--model=fraud", f"--batch={batch}"])
    except SystemExit:
        return False
    return options.batch == int(batch)


def by_model(batch: str) -> bool:
    section = {"enabled": True, "batch": int(batch), "chunk": 1, "connections": 1}
    try:
        return msgspec.convert(section, AsyncPolicy).batch == int(batch)
    except msgspec.ValidationError:
        return False


def by_command(batch: str) -> bool:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands["worker"]
    try:
        context = command.make_context("worker", ["fraud", f"--batch={batch}"])
    except typer.BadParameter:
        return False
    return context.params["batch"] == int(batch)


@pytest.mark.parametrize(
    ("batch", "is_taken"),
    [("-5", False), ("0", False), ("1", True), ("10000", True), ("10001", False)],
)
def test_a_batch_is_1_to_10_000_messages(batch: str, is_taken: bool) -> None:
    assert (by_model(batch), by_command(batch), by_process(batch)) == (is_taken,) * 3


def test_another_batch_is_refused_with_what_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--model=fraud", "--batch=many"])
    assert "--batch: it is 'many'; wanted: 1 to 10,000 messages" in capsys.readouterr().err
