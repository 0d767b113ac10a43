"""docs/tutorial.md as its reader types it: every block, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from mlplatform.runtime.configuration.declarations import PREFIX
from support.ports import free_port

WHY: Final = "THE TUTORIAL IS NOT TYPED: make test-tutorial runs it"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1300),
    pytest.mark.skipif("MLPLATFORM_TEST_TUTORIAL" not in os.environ, reason=WHY),
]
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "tutorial.md"
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIMIT_S: Final = 1200
"""A reader has half an hour, and reads meanwhile."""

HEAD: Final = """set -euo pipefail
ended() { mlplatform down > /dev/null 2>&1 || true; }
trap ended EXIT
"""


def script(text: str) -> str:
    """The blocks, each with its number and the seconds since the start before it."""
    blocks = BLOCK.findall(text)
    typed = (
        f'echo "== block {number} at $SECONDS s"\n{block}' for number, block in enumerate(blocks, 1)
    )
    return f'{HEAD}{"".join(typed)}echo "== all in $SECONDS s"'


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What all of it printed."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / ".venv").symlink_to(ROOT / ".venv")
    ports = {
        f"{PREFIX}{name}_PORT": str(free_port())
        for name in ("GATEWAY", "PREFECT", "MLFLOW", "PAGE")
    }
    own = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    printed, logs = clone / "printed.txt", clone / "up.log"
    with printed.open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", script(PAGE.read_text())],
            cwd=clone, env={**own, **ports}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        status = ended(shell)
    assert status == 0, printed.read_text() + (logs.read_text() if logs.exists() else "")
    shutil.rmtree(clone / "var-tutorial")
    return printed.read_text()


def ended(shell: subprocess.Popen[bytes]) -> int | None:
    """Its status; None where it took too long, and was ended with the platform that it started."""
    try:
        return shell.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(60)
        return None


def block(said: str, number: int) -> str:
    return said.partition(f"== block {number} at")[2].partition("== block")[0]


def numbered(words: str) -> int:
    """The number of the block that holds these words."""
    blocks = BLOCK.findall(PAGE.read_text())
    return next(number for number, text in enumerate(blocks, 1) if words in text)


def test_all_of_it_is_typed_in_less_than_half_an_hour(said: str) -> None:
    assert re.search(r"== all in \d+ s", said)


def test_an_import_of_other_columns_is_refused_with_the_options_that_fit(said: str) -> None:
    refused = block(said, numbered("history schema"))
    for option in ("--map amount=value", "--map customer_id=card"):
        assert option in " ".join(refused.split())


def test_the_score_is_explained_from_its_record(said: str) -> None:
    assert re.search(r"equal\s+True", block(said, numbered("log explain")))


def test_the_challenger_answers_and_is_taken_back(said: str) -> None:
    assert re.search(r"fraud-v2-1\s.*promoted", block(said, numbered("--emergency")))
    after = block(said, numbered("rollouts rollback"))
    assert re.search(r"fraud-v2-1\s.*rolled_back", after)
    assert "whole" in after
