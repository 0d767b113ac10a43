"""Erasure of messages in embedded topics: each is emptied in place, and offsets and readers stay as
they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from mlplatform.decisions.topics.local_group import translated
from mlplatform.runtime.storage import sqlite

PAGE: Final = 500
_NEXT: Final = (
    "SELECT rowid, value FROM messages WHERE topic = ? AND rowid > ? AND value <> x''"
    " ORDER BY rowid LIMIT ?"
)
_EMPTY: Final = "UPDATE messages SET key = x'', value = x'', headers = x'7b7d' WHERE rowid = ?"


def empty_messages(
    path: Path, topic: str, is_about: Callable[[bytes], bool], *, dry_run: bool = False
) -> int:
    """Empty the messages of a topic that are about somebody. Returns their number.

    A group that has not read such a message yet finds it empty, and takes it for no valid message.
    Repeating it changes nothing.

    Args:
        path: file of the database; if it does not exist, there are no messages.
        is_about: tells whether a message's value is about the person.
        dry_run: only count the messages.

    Raises:
        Unavailable: the database does not answer.
    """
    if not path.is_file():
        return 0
    count, after = 0, 0
    with translated(), closing(sqlite.connect(path)) as db:
        db.execute("PRAGMA secure_delete=ON")  # the old content is overwritten
        while page := db.execute(_NEXT, (topic, after, PAGE)).fetchall():
            found = [(rowid,) for rowid, value in page if is_about(value)]
            if found and not dry_run:
                with sqlite.transaction(db):
                    db.executemany(_EMPTY, found)
            count, after = count + len(found), page[-1][0]
        if not dry_run:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return count
