"""Backups in one folder, named by the time at which they began: the next name, and the ones to
delete."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

NAME: Final = re.compile(r"mlplatform-\d{8}T\d{6}Z\.tar")


def name_at(now_ms: int) -> str:
    """The name of a backup that begins now, to the second; names sort by time."""
    return f"mlplatform-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%SZ}.tar"


def superseded_backups(names: Iterable[str], keep: int) -> list[str]:
    """Names of the backups beyond the newest `keep`; files with other names are ignored.

    Args:
        keep: number of backups to keep, 1 or more.
    """
    ours = sorted(name for name in names if NAME.fullmatch(name))
    return ours[:-keep]
