"""docs/adding-a-model.md's way from nothing to an answer as its reader types it, for each named
template of two outcomes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from support import typed_pages
from support.train_libraries import needed

NAMED: Final = "MLPLATFORM_TEST_GUIDE"
"""The variable that names the templates: of `sklearn`, `xgboost`, `lightgbm` and `catboost`."""
WHY: Final = "THE GUIDE IS NOT TYPED: make test-guide runs it"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1000),
    pytest.mark.skipif(NAMED not in os.environ, reason=WHY),
]
PAGE: Final = (typed_pages.ROOT / "docs" / "adding-a-model.md").read_text()
HEADING: Final = "## From nothing to an answer\n"
TEXT: Final = PAGE.partition(HEADING)[2].partition("\n## ")[0]
LIMIT_S: Final = 15 * 60
MOST_LINES: Final = 150
OWN_SECTIONS: Final = re.compile(r"^(?:request|inputs|label|decision):\n(?: .*\n)+", re.MULTILINE)
MADE: Final = "new-model credit_default"
TEMPLATES: Final = os.environ.get(NAMED, "sklearn").split(",")


@dataclass(frozen=True)
class TypedGuide:
    """What the guide's blocks printed, and the folder that they left."""

    template: str
    printed: str
    clone: Path

    def said(self, words: str) -> str:
        """What the block with these words printed."""
        return typed_pages.said(self.printed, typed_pages.numbered(TEXT, words))


@pytest.fixture(scope="module", params=TEMPLATES)
def guide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TypedGuide:
    template: str = request.param
    if template != "sklearn":
        needed(template)
    clone = tmp_path_factory.mktemp(template)
    typed = TEXT.replace(MADE, f"{MADE} --template {template}")
    return TypedGuide(template, typed_pages.typed(typed, clone, limit_s=LIMIT_S), clone)


def test_all_of_it_is_typed_in_a_quarter_of_an_hour(guide: TypedGuide) -> None:
    (seconds,) = re.findall(r"== all in (\d+) s", guide.printed)
    print(f"{guide.template}: {seconds} s")
    assert guide.said("sed -i.before -e").count("nothing is wrong") == 1


def test_the_first_version_answers_and_is_explained(guide: TypedGuide) -> None:
    said = guide.said("mlplatform score")
    assert '"champion"' in said
    assert json.loads((guide.clone / "answer.json").read_text())["decision"] in ("refer", "refuse")
    assert re.search(r"equal\s+True", said)


def test_the_change_in_the_folder_makes_the_second_version(guide: TypedGuide) -> None:
    said = guide.said("slower steps")
    assert re.search(r"credit_default\W+2\W", said), said


def test_a_team_owns_few_lines_and_the_platform_none_of_them(guide: TypedGuide) -> None:
    """Of model.yaml the sections about requests, labels and decisions, of the other files all."""
    files = {path.name: path.read_text() for path in (guide.clone / "credit-team").glob("*/*")}
    assert set(files) == {"model.yaml", "reasons.yaml", "rules.yaml", "training.py"}
    sections = OWN_SECTIONS.findall(files.pop("model.yaml"))
    assert len(sections) == 4
    own = sum(len(text.splitlines()) for text in (*sections, *files.values()))
    print(f"{guide.template}: {own} lines")
    assert own <= MOST_LINES
    command = ["git", "status", "--porcelain", "--", "platform"]
    done = subprocess.run(command, cwd=typed_pages.ROOT, capture_output=True, check=True)
    assert not [line for line in done.stdout.splitlines() if b"credit" in line]
