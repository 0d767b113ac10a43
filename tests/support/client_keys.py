"""API keys of a running world's clients, made by the command."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from mlplatform.commands.keys import app
from mlplatform.operations import wiring
from support.scoring_world import MODEL, ScoringWorld


def new_key(world: ScoringWorld, client: str, *scopes: str) -> str:
    """The secret of a new key.

    Args:
        scopes: as options, `--scope score`.
    """
    wiring.settings.cache_clear()
    command = ["create", "--name", client, "--model", MODEL, *scopes, "--json"]
    result = CliRunner().invoke(app, command, env={"MLPLATFORM_HOME": str(world.home.root)})
    wiring.settings.cache_clear()
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["secret"])
