"""A member of a group over the embedded topics: its partitions, and the offsets read."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from mlplatform.decisions.topics.messages import (
    DroppedRange,
    Message,
    PartitionLag,
    ReceivedMessage,
    TopicPartition,
)
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt, StaleFence, Unavailable
from mlplatform.runtime.storage import sqlite

POLL_S: Final = 0.02
BEATS_A_SESSION: Final = 6
Insert = Callable[[sqlite3.Connection, Sequence[Message], int], None]

_decode = msgspec.json.Decoder(dict[str, bytes]).decode


class LocalSubscription:
    """A subscription; members claim partitions in turn, in the order of their names.

    A claim is one row, with the member's name and the number of its start. It moves if its holder
    gives it up, closes, or is not heard of for a session. A commit checks the claim in the same
    transaction, so a member that counts as dead publishes nothing more.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        topics: tuple[str, ...],
        group: str,
        member: str,
        wall_ms: Callable[[], int],
        session_ms: int,
        insert: Insert,
    ) -> None:
        self._db = db
        self._topics = topics
        self._group = group
        self._member = member
        self._wall_ms = wall_ms
        self._session_ms = session_ms
        self._insert = insert
        self._lock = threading.Lock()
        self._positions: dict[TopicPartition, int] = {}
        self._delivered: dict[TopicPartition, int] = {}
        self._dropped: list[DroppedRange] = []
        self._is_stale = False
        self._beat_s = 0.0
        self._turn = 0
        self._life = self._join()

    def consume(self, limit: int, wait_s: float) -> list[ReceivedMessage]:
        """At most `limit` messages; partitions take turns at coming first."""
        until_s = time.monotonic() + wait_s
        while True:
            with self._lock, translated():
                self._beat()
                found = self._read(limit)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0:
                return found
            time.sleep(min(POLL_S, left_s))

    def commit(self, results: Sequence[Message]) -> None:
        """Publish results and move the group's offsets, in one transaction."""
        with self._lock, translated():
            delivered, self._delivered = self._delivered, {}
            self._dropped = []
            try:
                with sqlite.transaction(self._db):
                    self._check_claims(delivered)
                    self._insert(self._db, results, self._wall_ms())
                    self._db.executemany(
                        "UPDATE offsets SET next_offset = ?"
                        " WHERE grp = ? AND topic = ? AND partition = ?",
                        [(self._positions[p], self._group, *p) for p in delivered],
                    )
            except StaleFence:
                self._is_stale, self._beat_s, self._positions = False, 0.0, {}
                raise
            except BaseException:
                self._positions.update(delivered)
                raise

    def dropped_ranges(self) -> list[DroppedRange]:
        """Ranges that the topics dropped. Offsets have no holes here, so what was skipped is
        gone."""
        with self._lock, translated():
            for place in self._positions.keys() - self._delivered.keys():
                self._pass_over(place)
            return list(self._dropped)

    def rewind(self) -> None:
        with self._lock:
            self._positions.update(self._delivered)
            self._delivered, self._dropped, self._is_stale = {}, [], False

    def topic_ids(self) -> dict[str, str]:
        """No ids: a topic that is made anew has only later messages, by this machine's clock."""
        return {}

    def restart(self, places: Collection[TopicPartition]) -> None:
        with self._lock, translated():
            with sqlite.transaction(self._db):
                self._db.executemany(
                    "UPDATE offsets SET next_offset = (SELECT first_offset FROM partitions p"
                    " WHERE p.topic = offsets.topic AND p.partition = offsets.partition)"
                    " WHERE grp = ? AND topic = ? AND partition = ?",
                    [(self._group, *place) for place in places],
                )
            self._positions, self._delivered, self._dropped = {}, {}, []
            self._is_stale, self._beat_s = False, 0.0

    def lags(self) -> list[PartitionLag]:
        """Messages beyond the committed offset, for each claimed partition."""
        with self._lock, translated():
            rows = self._db.execute(
                "SELECT topic, partition, p.next_offset - max(o.next_offset, p.first_offset)"
                " FROM claims c"
                " JOIN partitions p USING (topic, partition)"
                " JOIN offsets o USING (grp, topic, partition)"
                " WHERE c.grp = ? AND c.member = ? AND c.life = ? ORDER BY topic, partition",
                (self._group, self._member, self._life),
            ).fetchall()
        return [PartitionLag(*row) for row in rows]

    def lag(self) -> int:
        return sum(one.messages for one in self.lags())

    def close(self) -> None:
        with self._lock, translated():
            with sqlite.transaction(self._db):
                mine = (self._group, self._member, self._life)
                self._db.execute(
                    "DELETE FROM claims WHERE grp = ? AND member = ? AND life = ?", mine
                )
                self._db.execute(
                    "DELETE FROM members WHERE grp = ? AND member = ? AND life = ?", mine
                )
            self._db.close()

    def _join(self) -> int:
        with translated(), sqlite.transaction(self._db):
            marks = ",".join("?" * len(self._topics))
            # the first group of a topic begins at 0, so that it learns of messages dropped earlier
            self._db.execute(
                "INSERT OR IGNORE INTO offsets SELECT ?, topic, partition, CASE WHEN EXISTS"
                " (SELECT 1 FROM offsets o WHERE o.topic = p.topic AND o.partition = p.partition)"
                f" THEN first_offset ELSE 0 END FROM partitions p WHERE topic IN ({marks})",
                (self._group, *self._topics),
            )
            now_ms = self._wall_ms()
            # the number of a start is never used twice, even if the member's row was deleted
            # meanwhile
            row = self._db.execute(
                "INSERT INTO members VALUES (?, ?, ?, ?) ON CONFLICT (grp, member) DO UPDATE"
                " SET life = max(life + 1, excluded.life), seen_ms = excluded.seen_ms"
                " RETURNING life",
                (self._group, self._member, now_ms, now_ms),
            ).fetchone()
            # the claims of the member's earlier start belong to this start at once
            self._db.execute(
                "UPDATE claims SET life = ? WHERE grp = ? AND member = ?",
                (row[0], self._group, self._member),
            )
        life: int = row[0]
        return life

    def _beat(self) -> None:
        """Record that this member lives, and claim its share of the partitions."""
        if time.monotonic() < self._beat_s:
            return
        with sqlite.transaction(self._db):
            now_ms = self._wall_ms()
            self._live_on(now_ms)
            oldest = now_ms - self._session_ms
            self._db.execute(
                "DELETE FROM members WHERE grp = ? AND seen_ms < ?", (self._group, oldest)
            )
            self._balance()
        self._beat_s = time.monotonic() + self._session_ms / 1000 / BEATS_A_SESSION

    def _live_on(self, now_ms: int) -> None:
        """Raises StaleFence if another process has taken this member's name."""
        row = self._db.execute(
            "SELECT life FROM members WHERE grp = ? AND member = ?", (self._group, self._member)
        ).fetchone()
        if row is not None and row[0] != self._life:
            raise StaleFence(f"{self._member!r} of group {self._group!r} is another process now")
        # if the row is missing, the member counted as dead; others may have its claims now
        self._db.execute(
            "REPLACE INTO members VALUES (?, ?, ?, ?)",
            (self._group, self._member, self._life, now_ms),
        )

    def _balance(self) -> None:
        """Give up partitions of other members and take free ones; partitions in work stay."""
        members = [
            row[0]
            for row in self._db.execute(
                "SELECT member FROM members WHERE grp = ? ORDER BY member", (self._group,)
            )
        ]
        mine = members.index(self._member)
        share = set(self._places()[mine :: len(members)])
        claims = {
            (topic, partition): (member, life)
            for topic, partition, member, life in self._db.execute(
                "SELECT topic, partition, member, life FROM claims WHERE grp = ?", (self._group,)
            )
        }
        me = (self._member, self._life)
        held = {place for place, holder in claims.items() if holder == me}
        for place in held - share - self._delivered.keys():
            self._db.execute(
                "DELETE FROM claims WHERE grp = ? AND topic = ? AND partition = ?",
                (self._group, *place),
            )
            held.discard(place)
        for place in share - held:
            holder = claims.get(place)
            if holder is None or holder[0] not in members:
                self._db.execute(
                    "REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (self._group, *place, *me)
                )
                held.add(place)
        self._follow(held)

    def _follow(self, held: set[TopicPartition]) -> None:
        for place in self._positions.keys() - held:
            del self._positions[place]
            self._dropped = [r for r in self._dropped if (r.topic, r.partition) != place]
            self._is_stale |= self._delivered.pop(place, None) is not None
        for place in held - self._positions.keys():
            row = self._db.execute(
                "SELECT next_offset FROM offsets WHERE grp = ? AND topic = ? AND partition = ?",
                (self._group, *place),
            ).fetchone()
            self._positions[place] = row[0]

    def _places(self) -> list[TopicPartition]:
        marks = ",".join("?" * len(self._topics))
        return self._db.execute(
            "SELECT topic, partition FROM partitions"
            f" WHERE topic IN ({marks}) ORDER BY topic, partition",
            self._topics,
        ).fetchall()

    def _read(self, limit: int) -> list[ReceivedMessage]:
        found: list[ReceivedMessage] = []
        places = sorted(self._positions)
        self._turn += 1
        for index in range(len(places)):
            if len(found) >= limit:
                break
            place = places[(self._turn + index) % len(places)]
            found += self._read_partition(place, limit - len(found))
        return found

    def _read_partition(self, place: TopicPartition, limit: int) -> list[ReceivedMessage]:
        position = self._positions[place]
        rows = self._db.execute(
            "SELECT offset, key, value, headers, published_ms FROM messages"
            " WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
            (*place, position, limit),
        ).fetchall()
        if not rows:
            return []
        self._delivered.setdefault(place, position)
        self._positions[place] = rows[-1][0] + 1
        if self._positions[place] - position > len(rows):
            starts = (position, *(row[0] + 1 for row in rows))
            self._dropped += [
                DroppedRange(*place, start, row[0] - 1)
                for start, row in zip(starts, rows, strict=False)
                if row[0] > start
            ]
        return [
            ReceivedMessage(*place, o, k, v, _headers(place, o, h), ms) for o, k, v, h, ms in rows
        ]

    def _pass_over(self, place: TopicPartition) -> None:
        """Continue after messages that are all gone."""
        position = self._positions[place]
        row = self._db.execute(
            "SELECT next_offset FROM partitions WHERE topic = :topic AND partition = :partition"
            " AND next_offset > :position AND NOT EXISTS (SELECT 1 FROM messages"
            " WHERE topic = :topic AND partition = :partition AND offset >= :position)",
            {"topic": place[0], "partition": place[1], "position": position},
        ).fetchone()
        if row is not None:
            self._dropped.append(DroppedRange(*place, position, row[0] - 1))
            self._delivered.setdefault(place, position)
            self._positions[place] = row[0]

    def _check_claims(self, delivered: dict[TopicPartition, int]) -> None:
        if self._is_stale:
            raise StaleFence("a partition went to another member")
        for place in delivered:
            row = self._db.execute(
                "SELECT member, life FROM claims WHERE grp = ? AND topic = ? AND partition = ?",
                (self._group, *place),
            ).fetchone()
            if row != (self._member, self._life):
                raise StaleFence(f"partition {place} went to another member")


def _headers(place: TopicPartition, offset: int, stored: bytes) -> dict[str, bytes]:
    try:
        return _decode(stored)
    except NOT_JSON as error:
        topic, partition = place
        where = f"message {offset} of {topic}, partition {partition}"
        raise Corrupt(f"the headers of {where}, are not what was stored: {error}") from error


@contextmanager
def translated() -> Iterator[None]:
    """Errors of SQLite as the platform's own."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable("the topics' database did not answer") from error
