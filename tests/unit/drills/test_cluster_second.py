"""A second test cluster is refused, and leaves the first one up."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.cluster.__main__ import _test
from tests.cluster.processes import Failed


class Up:
    """A cluster that somebody else started."""

    def __init__(self) -> None:
        self.ended = False

    def refuse_second(self) -> None:
        raise Failed("a test cluster is up")

    def down(self) -> None:
        self.ended = True


def test_a_second_run_of_the_suites_ends_before_it_could_end_the_first() -> None:
    first = Up()

    with pytest.raises(Failed, match="is up"):
        _test(cast(Any, first), [])

    assert not first.ended
