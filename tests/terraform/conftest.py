"""Each CLI that is here, with a copy of infra/terraform; all of it only where it was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.terraform import tools

ASKED: Final = "MLPLATFORM_TEST_TERRAFORM"
HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [i for i in items if HERE in i.path.parents]
    reason = "" if os.environ.get(ASKED) else "make test-terraform runs it"
    reason = reason or "; ".join(f"lacking {m}" for m in tools.lacking())
    if reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=f"TERRAFORM IS NOT TESTED: {reason}"))


@dataclass(frozen=True, slots=True)
class InstalledTerraform:
    """A CLI and a copy of the repository's Terraform, with providers for it.

    Args:
        root: of the copy, as a checkout is laid out.
    """

    cli: tools.Cli
    root: Path
    environment: dict[str, str]

    @property
    def infra(self) -> Path:
        return self.root / "infra" / "terraform"

    def run(self, folder: str, *arguments: str, timeout_s: int = 240) -> tools.Result:
        """A command in a folder of infra/terraform, initialized without its backend."""
        place = self.infra / folder
        if not (place / ".terraform").exists():
            begun = tools.run(
                self.cli, place, self.environment, "init", "-backend=false", "-input=false"
            )
            assert begun.status == 0, begun.text
        return tools.run(self.cli, place, self.environment, *arguments, timeout_s=timeout_s)


def _clis() -> list[tools.Cli]:
    return tools.clis() if os.environ.get(ASKED) else []


@pytest.fixture(scope="session", params=_clis(), ids=lambda cli: cli.name)
def installed(request: pytest.FixtureRequest) -> Iterator[InstalledTerraform]:
    cli: tools.Cli = request.param
    with tools.workspace() as root, tools.providers(cli, root) as environment:
        yield InstalledTerraform(cli, root, environment)
