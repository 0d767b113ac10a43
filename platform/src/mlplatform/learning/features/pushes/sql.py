"""Pushes in a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from mlplatform.decisions.records.port import KEEP_MS
from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.learning.features.pushes.journal import (
    DurablePush,
    KeptPush,
    Place,
    Push,
    PushedRow,
    ReusedKey,
)
from mlplatform.runtime.storage.sql import Database, Session

PART: Final = "pushes"
PAGE: Final = 200
"""Number of pushes that are in memory at once."""
NOT_SERVED: Final = -1
UNSERVED: Final = f"served_ms = {NOT_SERVED}"
COLUMNS: Final = (
    "model TEXT NOT NULL, view_name TEXT NOT NULL, client TEXT NOT NULL, idempotency TEXT,"
    " digest TEXT NOT NULL, arrived_ms {whole} NOT NULL, served_ms {whole} NOT NULL, names TEXT,"
    " content TEXT"
)
"""Columns of a push; `content` is null once training's table has the rows."""
REST: Final = (
    "CREATE TABLE IF NOT EXISTS stream_marks (model TEXT NOT NULL, view_name TEXT NOT NULL,"
    " topic TEXT NOT NULL, part BIGINT NOT NULL, next_offset BIGINT NOT NULL,"
    " published_ms BIGINT NOT NULL, PRIMARY KEY (model, view_name, topic, part))",
    "CREATE UNIQUE INDEX IF NOT EXISTS pushes_arrival ON pushes (model, view_name, arrived_ms)",
    "CREATE UNIQUE INDEX IF NOT EXISTS pushes_key ON pushes (client, model, view_name, idempotency)"
    " WHERE idempotency IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS pushes_waiting ON pushes (model, view_name, number)"
    " WHERE content IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS pushes_unserved ON pushes (model, view_name, number)"
    f" WHERE content IS NOT NULL AND {UNSERVED}",
)
TOPICS_READ: Final = (
    "CREATE TABLE IF NOT EXISTS stream_topics (model TEXT NOT NULL, view_name TEXT NOT NULL,"
    " topic TEXT NOT NULL, part BIGINT NOT NULL, topic_id TEXT NOT NULL,"
    " PRIMARY KEY (model, view_name, topic, part))"
)
GAPS: Final = (
    "CREATE TABLE IF NOT EXISTS stream_gaps (model TEXT NOT NULL, view_name TEXT NOT NULL,"
    " topic TEXT NOT NULL, part BIGINT NOT NULL, topic_id TEXT NOT NULL,"
    " first_offset BIGINT NOT NULL, last_offset BIGINT NOT NULL, since_ms BIGINT,"
    " found_ms BIGINT NOT NULL,"
    " PRIMARY KEY (model, view_name, topic, part, topic_id, first_offset))"
)
_rows = msgspec.json.Decoder(tuple[tuple[int | str, int, tuple[float | None, ...]], ...])
_names = msgspec.json.Decoder(tuple[str, ...])


class SqlPushes:
    """`Pushes` in a database; safe for threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        self._database.close()

    def add(self, pushes: Sequence[Push], now_ms: int) -> Sequence[DurablePush] | ReusedKey:
        contents = [_content(push) for push in pushes]
        with self._database.write_transaction() as db:
            found = [_find_key(db, push) for push in pushes]
            if any(isinstance(one, ReusedKey) for one in found):
                return ReusedKey()
            return [
                known if isinstance(known, DurablePush) else _insert(db, push, content, now_ms)
                for push, content, known in zip(pushes, contents, found, strict=True)
            ]

    def add_read(self, push: Push, places: Sequence[Place], now_ms: int) -> KeptPush | None:
        with self._database.write_transaction() as db:
            marks = _marks(db, push.model, push.view)
            found: dict[tuple[int | str, int], PushedRow] = {}
            reached = dict(marks)
            for row, place in zip(push.rows, places, strict=True):
                part = (place.topic, place.partition)
                if _was_read(place, marks.get(part)):
                    continue
                found[row.key, row.event_s] = row
                mark = reached.get(part, _Mark(0, 0, place.topic_id))
                last_ms = 0 if mark.is_of_another_topic(place) else mark.published_ms
                reached[part] = _Mark(
                    place.offset + 1, max(last_ms, place.published_ms), place.topic_id
                )
            if not found:
                return None
            changed = {part: at for part, at in reached.items() if marks.get(part) != at}
            _mark(db, push.model, push.view, changed)
            own = replace(push, rows=tuple(found.values()))
            added = _insert(db, own, _content(own), now_ms)
        return KeptPush(added.number, own, added.arrived_ms, None)

    def begin_reading(self, model: str, view: str, places: Sequence[Place]) -> None:
        with self._database.write_transaction() as db:
            marks, changed = _marks(db, model, view), dict[tuple[str, int], _Mark]()
            for place in places:
                mark = marks.get((place.topic, place.partition))
                if mark is None or mark.is_of_another_topic(place):
                    changed[place.topic, place.partition] = _Mark(0, 0, place.topic_id)
                elif mark.topic_id != place.topic_id and place.topic_id:
                    changed[place.topic, place.partition] = mark._replace(topic_id=place.topic_id)
            _mark(db, model, view, changed)

    def topics_read(self, model: str, view: str) -> Mapping[tuple[str, int], str]:
        with self._database.read_transaction() as db:
            return {part: mark.topic_id for part, mark in _marks(db, model, view).items()}

    def add_gaps(
        self,
        model: str,
        view: str,
        dropped: Sequence[DroppedRange],
        topic_ids: Mapping[str, str],
        found_ms: int,
    ) -> Sequence[StreamGap]:
        with self._database.write_transaction() as db:
            marks, known = _marks(db, model, view), _gaps(db, model, view)
            found = [
                gap
                for one in dropped
                if (gap := _gap(one, marks, topic_ids.get(one.topic, ""), found_ms)) is not None
            ]
            added = [gap for gap in found if not any(_covers(old, gap) for old in known)]
            for gap in added:
                db.change(
                    "INSERT INTO stream_gaps (model, view_name, topic, part, topic_id,"
                    " first_offset, last_offset, since_ms, found_ms) VALUES (:model, :view, :topic,"
                    " :partition, :topic_id, :first_offset, :last_offset,"
                    " CAST(:since_ms AS BIGINT), :found_ms)"
                    " ON CONFLICT (model, view_name, topic, part, topic_id, first_offset)"
                    " DO UPDATE SET last_offset = excluded.last_offset",
                    model=model,
                    view=view,
                    **msgspec.structs.asdict(gap),
                )
        return added

    def gaps(self, model: str, view: str) -> Sequence[StreamGap]:
        with self._database.read_transaction() as db:
            return _gaps(db, model, view)

    def mark_served(self, number: int, at_ms: int) -> None:
        with self._database.write_transaction() as db:
            db.change(
                f"UPDATE pushes SET served_ms = :at_ms WHERE number = :number AND {UNSERVED}",
                at_ms=at_ms,
                number=number,
            )

    def waiting(
        self, model: str, view: str, *, after: int = 0, most: int, unserved: bool = False
    ) -> Sequence[KeptPush]:
        found = self._database.rows(
            "SELECT number, client, idempotency, digest, arrived_ms, served_ms, names, content"
            " FROM pushes WHERE model = :model AND view_name = :view AND content IS NOT NULL"
            f" AND number > :after{f' AND {UNSERVED}' if unserved else ''}"
            " ORDER BY number LIMIT :most",
            model=model,
            view=view,
            after=after,
            most=most,
        )
        return [_push_of(model, view, *row) for row in found]

    def last(self, model: str, view: str) -> int:
        ((number,),) = self._database.rows(
            "SELECT max(number) FROM pushes WHERE model = :model AND view_name = :view",
            model=model,
            view=view,
        )
        return 0 if number is None else int(number)

    def mark_taken(self, model: str, view: str, numbers: Sequence[int], now_ms: int) -> None:
        with self._database.write_transaction() as db:
            for number in numbers:
                db.change(
                    "UPDATE pushes SET content = NULL, names = NULL WHERE number = :number",
                    number=number,
                )
            # The last push stays, so that the next one arrives after it.
            db.change(
                "DELETE FROM pushes WHERE model = :model AND view_name = :view AND content IS NULL"
                " AND (idempotency IS NULL OR arrived_ms < :old_ms) AND arrived_ms <"
                " (SELECT max(arrived_ms) FROM pushes WHERE model = :model AND view_name = :view)",
                model=model,
                view=view,
                old_ms=now_ms - KEEP_MS,
            )

    def erase(self, model: str, view: str, keys: Set[int | str]) -> int:
        count, after = 0, 0
        while page := self.waiting(model, view, after=after, most=PAGE):
            for kept in page:
                if any(row.key in keys for row in kept.push.rows):
                    count += self._erase_rows(kept.number, keys)
            after = page[-1].number
        return count

    def _erase_rows(self, number: int, keys: Set[int | str]) -> int:
        with self._database.write_transaction() as db:
            found = db.rows(
                "SELECT content FROM pushes WHERE number = :number AND content IS NOT NULL",
                number=number,
            )
            rows = _rows.decode(found[0][0]) if found else ()  # empty if taken meanwhile
            left = [row for row in rows if row[0] not in keys]
            if len(left) < len(rows):
                # A push without rows stays, so that it is recognised when it is sent again.
                db.change(
                    "UPDATE pushes SET content = :content WHERE number = :number"
                    " AND content IS NOT NULL",
                    content=msgspec.json.encode(left).decode(),
                    number=number,
                )
        return len(rows) - len(left)


class _Mark(NamedTuple):
    """How far a partition was read.

    Args:
        published_ms: when the last message that was read was published.
        topic_id: the topic's id; empty if it is not known.
    """

    next_offset: int
    published_ms: int
    topic_id: str

    def is_of_another_topic(self, place: Place) -> bool:
        return bool(self.topic_id and place.topic_id) and self.topic_id != place.topic_id


_Marks = dict[tuple[str, int], _Mark]
"""Marks by topic and partition."""


def _was_read(place: Place, mark: _Mark | None) -> bool:
    if mark is None or mark.is_of_another_topic(place) or place.offset >= mark.next_offset:
        return False
    return bool(mark.topic_id and place.topic_id) or place.published_ms <= mark.published_ms


def _marks(db: Session, model: str, view: str) -> _Marks:
    rows = db.rows(
        "SELECT topic, part, next_offset, published_ms, coalesce(topic_id, '') FROM stream_marks"
        " LEFT JOIN stream_topics USING (model, view_name, topic, part)"
        " WHERE model = :model AND view_name = :view",
        model=model,
        view=view,
    )
    return {(topic, int(part)): _Mark(int(at), int(ms), of) for topic, part, at, ms, of in rows}


def _gap(dropped: DroppedRange, marks: _Marks, topic_id: str, found_ms: int) -> StreamGap | None:
    """The part of a dropped range that this journal does not have; None if it has all of it, or
    nobody can tell where it begins."""
    mark = marks.get((dropped.topic, dropped.partition))
    if mark is not None and topic_id and mark.topic_id not in ("", topic_id):
        mark = None
    starts = [dropped.first, None if mark is None or not mark.next_offset else mark.next_offset]
    first = max((one for one in starts if one is not None), default=dropped.last + 1)
    if first > dropped.last:
        return None
    since_ms = mark.published_ms if mark is not None and mark.published_ms else None
    place = (dropped.topic, dropped.partition, topic_id)
    return StreamGap(*place, first, dropped.last, since_ms, found_ms)


def _covers(known: StreamGap, found: StreamGap) -> bool:
    """Whether the gap found is part of a known one."""
    return (
        (known.topic, known.partition, known.topic_id)
        == (found.topic, found.partition, found.topic_id)
        and known.first_offset <= found.first_offset
        and found.last_offset <= known.last_offset
    )


def _gaps(db: Session, model: str, view: str) -> list[StreamGap]:
    rows = db.rows(
        "SELECT topic, part, topic_id, first_offset, last_offset, since_ms, found_ms"
        " FROM stream_gaps WHERE model = :model AND view_name = :view"
        " ORDER BY found_ms, topic, part, first_offset",
        model=model,
        view=view,
    )
    return [StreamGap(*row) for row in rows]


def _mark(db: Session, model: str, view: str, marks: _Marks) -> None:
    for (topic, part), mark in marks.items():
        place: dict[str, object] = {"model": model, "view": view, "topic": topic, "part": part}
        db.change(
            "INSERT INTO stream_marks (model, view_name, topic, part, next_offset, published_ms)"
            " VALUES (:model, :view, :topic, :part, :next_offset, :published_ms) ON CONFLICT"
            " (model, view_name, topic, part) DO UPDATE SET next_offset = excluded.next_offset,"
            " published_ms = excluded.published_ms",
            next_offset=mark.next_offset,
            published_ms=mark.published_ms,
            **place,
        )
        db.change(
            "INSERT INTO stream_topics (model, view_name, topic, part, topic_id)"
            " VALUES (:model, :view, :topic, :part, :topic_id) ON CONFLICT"
            " (model, view_name, topic, part) DO UPDATE SET topic_id = excluded.topic_id",
            topic_id=mark.topic_id,
            **place,
        )


def _content(push: Push) -> str:
    rows = [(row.key, row.event_s, row.values) for row in push.rows]
    return msgspec.json.encode(rows).decode()


def _insert(db: Session, push: Push, content: str, now_ms: int) -> DurablePush:
    last = db.rows(
        "SELECT max(arrived_ms) FROM pushes WHERE model = :model AND view_name = :view",
        model=push.model,
        view=push.view,
    )[0][0]
    arrived_ms = now_ms if last is None else max(now_ms, int(last) + 1)
    ((number,),) = db.rows(
        "INSERT INTO pushes (model, view_name, client, idempotency, digest, arrived_ms, served_ms,"
        " names, content) VALUES (:model, :view, :client, CAST(:idempotency AS TEXT), :digest,"
        f" :arrived_ms, {NOT_SERVED}, :names, :content) RETURNING number",
        model=push.model,
        view=push.view,
        client=push.client,
        idempotency=push.idempotency,
        digest=push.digest,
        arrived_ms=arrived_ms,
        names=msgspec.json.encode(push.names).decode(),
        content=content,
    )
    return DurablePush(int(number), arrived_ms, is_new=True, served_ms=None)


def _find_key(db: Session, push: Push) -> DurablePush | ReusedKey | None:
    """The stored result of the push's idempotency key; None if there is none."""
    if push.idempotency is None:
        return None
    found = db.rows(
        "SELECT number, digest, arrived_ms, served_ms FROM pushes WHERE client = :client"
        " AND model = :model AND view_name = :view AND idempotency = :idempotency",
        client=push.client,
        model=push.model,
        view=push.view,
        idempotency=push.idempotency,
    )
    if not found:
        return None
    number, digest, arrived_ms, served_ms = found[0]
    if digest != push.digest:
        return ReusedKey()
    at_ms = None if served_ms == NOT_SERVED else int(served_ms)
    return DurablePush(int(number), int(arrived_ms), is_new=False, served_ms=at_ms)


def _push_of(
    model: str, view: str, number: int, client: str, idempotency: str | None, digest: str,
    arrived_ms: int, served_ms: int, names: str, content: str,
) -> KeptPush:  # fmt: skip
    rows = tuple(PushedRow(*row) for row in _rows.decode(content))
    push = Push(model, view, client, idempotency, digest, _names.decode(names), rows)
    return KeptPush(number, push, arrived_ms, None if served_ms == NOT_SERVED else served_ms)
