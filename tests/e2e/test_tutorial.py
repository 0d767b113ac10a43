"""docs/tutorial.md as its reader types it: every block, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
from typing import Final

import pytest

from support import typed_pages

WHY: Final = "THE TUTORIAL IS NOT TYPED: make test-tutorial runs it"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1300),
    pytest.mark.skipif("MLPLATFORM_TEST_TUTORIAL" not in os.environ, reason=WHY),
]
TEXT: Final = (typed_pages.ROOT / "docs" / "tutorial.md").read_text()
LIMIT_S: Final = 1200
"""A reader has half an hour, and reads meanwhile."""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    clone = tmp_path_factory.mktemp("clone")
    printed = typed_pages.typed(TEXT, clone, limit_s=LIMIT_S)
    shutil.rmtree(clone / "var-tutorial")
    return printed


def said(printed: str, words: str) -> str:
    """What the block with these words printed."""
    return typed_pages.said(printed, typed_pages.numbered(TEXT, words))


def test_all_of_it_is_typed_in_less_than_half_an_hour(printed: str) -> None:
    assert re.search(r"== all in \d+ s", printed)


def test_an_import_of_other_columns_is_refused_with_the_options_that_fit(printed: str) -> None:
    refused = said(printed, "history schema")
    for option in ("--map amount=value", "--map customer_id=card"):
        assert option in " ".join(refused.split())


def test_the_score_is_explained_from_its_record(printed: str) -> None:
    assert re.search(r"equal\s+True", said(printed, "log explain"))


def test_the_challenger_answers_and_is_taken_back(printed: str) -> None:
    assert re.search(r"fraud-v2-1\s.*promoted", said(printed, "--emergency"))
    after = said(printed, "rollouts rollback")
    assert re.search(r"fraud-v2-1\s.*rolled_back", after)
    assert "whole" in after
