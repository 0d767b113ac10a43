"""Analysts' words: what makes a label, which decisions wait, and that nobody's word is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.decisions.log.erasure_acts import ErasureRequest, erase
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.model.policies.classes import ClassDecision
from mlplatform.operations.actions import review as job
from mlplatform.operations.review import opinions, queue, queue_file, recording
from mlplatform.operations.review.opinions import Account, Consensus, OpenOpinion, Opinion
from mlplatform.operations.review.queue import QueueCursor
from mlplatform.runtime.errors import Busy, InputInvalid, NotFound, Refused, Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.worker.outbox import Outbox, decisions_of
from support.review_world import NOW_MS, World, append, decision, label, person, reviewing, void

# What makes a label.

ANA, BO, CY = (Opinion(name, 1) for name in ("ana", "bo", "cy"))


@pytest.mark.parametrize(
    ("said", "now", "four_eyes", "comes"),
    [
        ([], ANA, False, Consensus(())),
        ([], ANA, True, OpenOpinion(differs=False)),
        ([ANA], BO, True, Consensus(("ana",))),
        ([ANA], Opinion("bo", 0), True, OpenOpinion(differs=True)),
        ([ANA, Opinion("bo", 0)], Opinion("cy", 0), True, Consensus(("bo",))),
        ([ANA], Opinion("ana", 0), True, OpenOpinion(differs=False)),
        ([ANA, Opinion("ana", 0)], BO, True, OpenOpinion(differs=True)),
        ([Opinion("bo", 0), Opinion("bo", 1)], ANA, True, Consensus(("bo",))),
    ],
    ids=[
        "one word is enough where one is asked",
        "the first of two waits",
        "the second confirms",
        "the second says the opposite",
        "a third decides",
        "who changes their mind waits still",
        "a word that was taken back confirms nothing",
        "of each person the last word counts",
    ],
)
def test_what_comes_of_a_word(
    said: list[Opinion], now: Opinion, four_eyes: bool, comes: Consensus | OpenOpinion
) -> None:
    assert opinions.weigh(said, now, four_eyes=four_eyes) == comes


def test_nobody_confirms_their_own_word() -> None:
    with pytest.raises(Refused, match="another person has to confirm it"):
        opinions.weigh([ANA, Opinion("bo", 0)], ANA, four_eyes=True)


BANK = "https://login.bank.example"


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        (("jo", Account(BANK, "7")), ("jo.bloggs", Account(BANK, "7")), True),
        (("jo", Account(BANK, "7")), ("jo", Account(BANK, "8")), False),
        (("jo", Account(BANK, "7")), ("jo@bank.example", None), True),
        (("jo", Account(BANK, "7")), ("j\u043e", Account("https://other.example", "9")), True),
        (("jo", Account(BANK, "7")), ("bo", None), False),
        (("jo", None), ("jo", None), True),
    ],
    ids=[
        "one account under a new name",
        "a name that went to another account",
        "an account and a key",
        "accounts of two providers",
        "another person's key",
        "one key",
    ],
)
def test_a_second_pair_of_eyes_is_that_of_another_account(
    first: tuple[str, Account | None], second: tuple[str, Account | None], is_one: bool
) -> None:
    before, now = (Opinion(name, 1, account=account) for name, account in (first, second))
    if is_one:
        with pytest.raises(Refused, match="another person has to confirm it"):
            opinions.weigh([before], now, four_eyes=True)
    else:
        assert opinions.weigh([before], now, four_eyes=True) == Consensus((first[0],))


@given(st.lists(st.tuples(st.sampled_from(["ana", "bo", "cy"]), st.integers(0, 1)), max_size=9))
def test_no_label_comes_of_fewer_than_two_people(words: list[tuple[str, int]]) -> None:
    said: list[Opinion] = []
    for name, outcome in words:
        now = Opinion(name, outcome)
        try:
            comes = opinions.weigh(said, now, four_eyes=True)
        except Refused:
            continue
        last = {o.analyst: o.outcome for o in [*said, now]}
        agree = [who for who, what in last.items() if what == outcome]
        assert isinstance(comes, Consensus) == (len(agree) > 1)
        if isinstance(comes, Consensus):
            return
        said.append(now)


def test_an_opinion_comes_back_from_its_record() -> None:
    told = {"client": "ana", **opinions.payload(Opinion("ana", 0, "a gift"), ["bo"])}
    assert opinions.opinion(told) == Opinion("ana", 0, "a gift")
    by_account = Opinion("jo", 1, account=Account(BANK, "7"))
    assert opinions.opinion({"client": "jo", **opinions.payload(by_account)}) == by_account
    for other in ({}, {"client": "shop"}, {"review": "x"}, {"review": {"outcome": 7}}):
        assert opinions.opinion(other) is None


def test_an_outcome_is_named_by_the_label() -> None:
    assert [opinions.outcome_of(t, "fraud") for t in ("fraud", " Not-Fraud", "1", "0")] == [
        *(1, 0, 1, 0)
    ]
    with pytest.raises(InputInvalid, match="wanted: fraud, not-fraud, 1, 0"):
        opinions.outcome_of("maybe", "fraud")
    for name in ("isFraud", "STRASSE", "stra\u00dfe", "charge_back"):
        assert [opinions.outcome_of(w, name) for w in opinions.words(name)] == [1, 0], name


# Which decisions wait.


@pytest.fixture
def written(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    with closing(SqliteDecisionLog(tmp_path / "decisions", segment_rows=(4, 4))) as log:
        yield log


def ids(path: Path, rows: int = 100) -> list[str]:
    return [one.decision_id for one in queue.page(path, rows).rows]


def test_what_waits_is_what_people_look_at_and_nobody_has_labelled(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    path = tmp_path / "q.db"
    append(
        written, "a", decision("d2", 20, "decline"), decision("d1", 10), decision("d3", 30),
        decision("ok", 15, "approve"), decision("d4", 40), decision("none", 5),
        Record(kind="shadow", decision_id="d9", model="fraud", event_ms=1, recorded_ms=1,
               decision="review"),
    )  # fmt: skip
    append(written, "b", label("d3", 50), void("d4", 60), label("none", 61, 0))
    written.seal()
    assert queue.advance(path, written, reviewing(shows=("amount",)))
    found = queue.page(path, 1)
    assert [one.decision_id for one in found.rows] == ["d1"]
    assert (found.total, found.complete, found.newer) == (2, True, QueueCursor(10, "d1"))
    shown = found.rows[0].shown
    assert (shown.reasons, shown.fields) == (("AMOUNT",), (("amount", 12.5),))
    rest = queue.page(path, 5, found.newer)
    assert ([one.decision_id for one in rest.rows], rest.newer) == (["d2"], None)


RECORDS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["decision", "decision", "label", "void", "opinion"]),
        st.integers(0, 6),
    ),
    max_size=24,
)


def drawn(kind: str, number: int) -> Record:
    """A record of one of seven decisions; every other one is approved."""
    name, event_ms = f"d{number}", NOW_MS + number
    if kind == "decision":
        return decision(name, event_ms, "approve" if number % 2 else "decline")
    if kind == "void":
        return void(name, event_ms + 50)
    value = None if kind == "opinion" else number % 2
    held = {"client": "ana", **opinions.payload(ANA)} if kind == "opinion" else {}
    return label(name, event_ms + 50, value, **held)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(RECORDS, st.integers(1, 5))
def test_any_order_and_any_portions_leave_the_same_decisions(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], portion: int
) -> None:
    folder = tmp_path_factory.mktemp("queue")
    definition, path = reviewing(), folder / "q.db"
    with closing(SqliteDecisionLog(folder / "log", segment_rows=(4, 4))) as log:
        for place, (writer, kind, number) in enumerate(rows):
            append(log, writer, drawn(kind, number))
            if place % 5 == 0:
                assert queue.advance(path, log, definition, portion=portion)
            if place % 7 == 0:
                log.seal()
        assert queue.advance(path, log, definition, portion=portion)
        assert queue.advance(folder / "whole.db", log, definition)
    found = queue.page(path, 100)
    assert found == queue.page(folder / "whole.db", 100)
    ended = {number for _, kind, number in rows if kind in ("label", "void")}
    asked = {number for _, kind, number in rows if kind == "decision" and number % 2 == 0}
    assert [one.decision_id for one in found.rows] == [f"d{n}" for n in sorted(asked - ended)]
    said = {f"d{number}" for _, kind, number in rows if kind == "opinion"}
    assert {o.decision_id for o in found.rows if o.opinions} == said & {
        one.decision_id for one in found.rows
    }


def test_of_classes_nobody_reviews_a_decision_and_the_queue_goes_on(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    """A pass takes the log into the queue of each model, whatever its task."""
    classes = ClassDecision(outcomes=("a", "b"), safe="b")
    definition = msgspec.structs.replace(reviewing(), decision=classes)
    append(written, "a", decision("d1", NOW_MS, "a"), label("d1", NOW_MS + 1))
    assert queue.advance(tmp_path / "q.db", written, definition)
    assert ids(tmp_path / "q.db") == []


def test_the_queue_is_bounded_by_days_and_made_again_where_model_yaml_changes(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    path = tmp_path / "q.db"
    append(written, "a", decision("old", NOW_MS - 31 * DAY_MS), decision("d1", NOW_MS))
    assert queue.advance(path, written, reviewing())
    assert ids(path) == ["d1"]
    append(written, "a", decision("d2", NOW_MS + 31 * DAY_MS, "decline"))
    assert queue.advance(path, written, reviewing())
    assert ids(path) == ["d2"]
    assert queue.advance(path, written, reviewing(days=60))
    assert ids(path) == ["d1", "d2"]
    assert queue.advance(path, written, reviewing(days=60, outcomes=("decline",)))
    assert ids(path) == ["d2"]


def test_a_log_that_was_put_back_and_a_damaged_file_are_read_anew(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    path = tmp_path / "q.db"
    append(written, "a", *(decision(f"d{n}", n) for n in range(3)))
    assert queue.advance(path, written, reviewing())
    with closing(SqliteDecisionLog(tmp_path / "earlier")) as earlier:
        append(earlier, "a", decision("d0", 0))
        assert queue.advance(path, earlier, reviewing())
    assert ids(path) == ["d0"]
    path.write_bytes(b"no database" * 100)
    with pytest.raises(Unavailable, match="the next pass makes it again"):
        queue.advance(path, written, reviewing())
    assert queue.advance(path, written, reviewing())
    assert ids(path) == ["d0", "d1", "d2"]


def test_what_the_log_erases_leaves_the_queue_too(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    path, definition = tmp_path / "q.db", reviewing(shows=("amount",))
    said = {"client": "ana", **opinions.payload(Opinion("ana", 1, "SECRET note"))}
    append(written, "a", decision("d1", 10, unit=7), decision("d2", 20, unit=8))
    append(written, "a", label("d1", 30, None, **said))
    assert queue.advance(path, written, definition)
    (one, _) = queue.page(path, 9).rows
    assert (one.shown.fields, [o.note for o in one.opinions]) == (
        (("amount", 12.5),),
        ["SECRET note"],
    )

    asked = ErasureRequest("a1", "Ann Lee", "request 4711", unit=7)
    assert erase(written, tmp_path / "decisions", asked, now_ms=NOW_MS).is_done
    assert queue.advance(path, written, definition)
    (one, other) = queue.page(path, 9).rows
    assert (one.decision_id, one.shown, one.opinions) == ("d1", queue.DecisionSummary(), ())
    assert other.shown.fields == (("amount", 12.5),)
    assert not any(b"SECRET" in file.read_bytes() for file in tmp_path.glob("q.db*"))


def test_what_is_said_after_an_erasure_stays_in_the_queue(
    written: SqliteDecisionLog, tmp_path: Path
) -> None:
    path, shows = tmp_path / "q.db", reviewing(shows=("amount", "note"))
    names = [f"d{n}" for n in range(9)]
    told = {"client": "ana", **opinions.payload(Opinion("ana", 1, "she lives in Ulm"))}
    for number, name in enumerate(names):
        held = decision(name, number)
        held.payload["request"]["note"] = f"secret of {name}"
        append(written, "a", held, label(name, number + 50, None, **told))
    assert queue.advance(path, written, shows)
    asked = ErasureRequest("a1", "Ann Lee", "request 4711", decision_id="d3")
    assert erase(written, tmp_path / "decisions", asked, now_ms=NOW_MS).is_done
    append(written, "a", label("d3", 99, None, client="bo", **opinions.payload(BO)))
    assert queue.advance(path, written, shows)
    rows = {one.decision_id: one for one in queue.page(path, 99).rows}
    assert list(rows) == names, "it waits still: its score and decision are on record"
    assert rows["d3"].shown == queue.DecisionSummary()
    assert rows["d3"].opinions == (BO,), "what was said before is erased too"
    assert rows["d4"].shown.fields == (("amount", 12.5), ("note", "secret of d4"))
    assert len(rows["d4"].opinions) == 1
    files = [f.read_bytes() for f in tmp_path.glob("q.db*")]
    assert not any(b"secret of d3" in f for f in files), "no free page holds it"
    assert queue.advance(tmp_path / "whole.db", written, shows)
    assert queue.page(path, 99) == queue.page(tmp_path / "whole.db", 99)


def test_before_anything_was_read_nothing_waits_and_the_page_says_so(tmp_path: Path) -> None:
    found = queue.page(tmp_path / "none.db", 10)
    assert (found.rows, found.complete) == ((), False)
    assert queue.find(tmp_path / "none.db", "d1") is None
    assert queue.first(tmp_path / "none.db", "ana") is None


# Recording.


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "home")
    yield made
    made.log.close()


def test_an_analysts_word_is_a_label_like_an_applications(world: World) -> None:
    first, second = world.decide("decline"), world.decide()
    assert world.waiting() == [first, second]
    done = world.say(first, person("ana"), 0, note="the customer called")
    assert done == job.ReviewResult(first, "fraud", 0, True)
    told = {"outcome": 0, "note": "the customer called"}
    assert world.held(first) == [{"client": "ana", "label": 0, "review": told}]
    assert world.labels() == {first: 0}
    page = job.review_queue(world.platform, "fraud", 9)
    assert [one.decision_id for one in page.rows] == [second], "at once, before a pass"
    assert world.waiting() == [second]
    mark = next(m for m in world.log.watermarks() if m.writer == recording.WRITER)
    assert not mark.live, "no verdict waits for it"
    assert world.log.verify().ok


def test_two_people_make_a_label_where_model_yaml_asks_for_two(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    name = world.decide("decline")
    assert world.waiting() == [name]
    assert not world.say(name, person("ana"), note="seen before").is_label
    assert world.labels() == {}, "one word is no label to any reader"
    (one,) = job.review_queue(world.platform, "fraud", 9).rows
    assert one.opinions == (Opinion("ana", 1, "seen before"),)
    assert job.first(world.platform, "fraud", "ana") is None
    assert job.first(world.platform, "fraud", "bo") == one
    assert world.waiting() == [name]
    (one,) = job.review_queue(world.platform, "fraud", 9).rows
    assert len(one.opinions) == 1, "the log tells what the queue knew"
    with pytest.raises(Refused, match="another person has to confirm"):
        world.say(name, person("ana"))
    assert len(world.refused("ana")) == 1
    done = world.say(name, person("bo"))
    assert (done.is_label, done.agreed) == (True, ("ana",))
    assert world.labels() == {name: 1}
    assert world.held(name)[-1]["review"] == {"outcome": 1, "agreed": ["ana"]}
    assert world.waiting() == []


def test_a_word_stands_in_the_log_with_the_account_that_a_provider_proved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_two(monkeypatch)
    name, jo, ed = world.decide("decline"), Account(BANK, "7"), Account(BANK, "8")
    world.say(name, person("jo"), account=jo)
    assert world.waiting() == [name]
    renamed, other = "jo.bloggs", "jo"
    assert job.first(world.platform, "fraud", renamed, jo) is None
    with pytest.raises(Refused, match="another person has to confirm"):
        world.say(name, person(renamed), account=jo)
    (kept,) = (r for r in Refusals(world.home.audit).since(0) if r.who == renamed)
    assert kept.proof == f"subject 7 of {BANK}"
    assert world.say(name, person(other), account=ed).is_label
    told = [held["review"] for held in world.held(name)]
    assert [(one["issuer"], one["subject"]) for one in told] == [(BANK, "7"), (BANK, "8")]


def test_an_opinion_is_published_to_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    world.say(name, person("ana"))
    projection = decisions_of("fraud")
    published: list[Any] = []
    with closing(LocalTopics(world.home.topics_db, [])) as topics:
        monkeypatch.setattr(topics, "publish", lambda sent, progress: published.extend(sent))
        Outbox(world.log, topics, projection).step()
    assert [message.headers["kind"] for message in published] == [b"decision"]


def test_what_was_shown_has_to_hold_still(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    shown = job.opinions_digest(())
    world.say(name, person("ana"), seen=shown)
    with pytest.raises(Refused, match="since this decision was shown"):
        world.say(name, person("bo"), seen=shown)
    assert world.say(name, person("bo"), seen="opinions 1").is_label


def test_a_slip_is_corrected_back_and_forth_and_the_log_keeps_all(world: World) -> None:
    name, ana, bo = world.decide(), person("ana"), person("bo")
    world.say(name, ana, 1)
    with pytest.raises(
        Refused, match=rf"from ana; if it is wrong, `mlplatform review correct {name}"
    ):
        world.say(name, ana, 0)
    for who, outcome in ((ana, 0), (bo, 1), (ana, 0)):
        done = world.say(name, who, outcome, note="the wrong key", corrects=True)
        assert done.is_label
        assert world.labels() == {name: outcome}
        assert world.waiting() == []
    held = [(one["client"], one["label"]) for one in world.held(name)]
    assert sorted(held) == [("ana", 0), ("ana", 0), ("ana", 1), ("bo", 1)]


def test_a_correction_takes_two_people_where_a_label_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody's opinion of before the label counts for it."""
    world.ask_two(monkeypatch)
    name = world.decide()
    world.say(name, person("cy"), 0)
    world.say(name, person("ana"), 1)
    world.say(name, person("bo"), 1)
    assert world.labels() == {name: 1}
    how = {"note": "the wrong key", "corrects": True}
    assert not world.say(name, person("ana"), 0, **how).is_label
    assert world.labels() == {name: 1}
    with pytest.raises(Refused, match="another person has to confirm it"):
        world.say(name, person("ana"), 0, **how)
    assert world.waiting() == []
    done = world.say(name, person("bo"), 0, **how)
    assert (done.is_label, done.agreed) == (True, ("ana",))
    assert world.labels() == {name: 0}


def corrections_of(world: World, *, anew: bool = False) -> list[opinions.PendingCorrection]:
    """The corrections that wait, at once, or as the log tells them."""
    if anew:
        queue_file.file_of(world.home.counted, "fraud").unlink()
        assert job.advance(world.platform, "fraud")
    found, total = job.pending_corrections(world.platform, "fraud", 9)
    assert len(found) == total
    return list(found)


def labelled_by_two(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A decision that two people have labelled 1."""
    world.ask_two(monkeypatch)
    name = world.decide()
    assert name in world.waiting()
    world.say(name, person("ana"), 1)
    world.say(name, person("bo"), 1)
    assert corrections_of(world) == []
    return name


CORRECTS: dict[str, Any] = {"note": "the wrong key", "corrects": True}


def test_a_correction_waits_until_a_second_person_confirms_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = labelled_by_two(world, monkeypatch)
    before_ms = world.platform.clock.wall_ms()
    world.say(name, person("ana"), 0, **CORRECTS)
    (one,) = corrections_of(world)
    assert (one.decision_id, one.decision, one.label, one.labelled_by) == (name, "review", 1, "bo")
    assert [said.opinion for said in one.asks] == [Opinion("ana", 0, "the wrong key")]
    assert one.keeps == ()
    assert before_ms <= one.asked_ms <= world.platform.clock.wall_ms()
    assert corrections_of(world, anew=True) == [one], "the log tells the same"
    assert world.say(name, person("bo"), 0, **CORRECTS).is_label
    assert corrections_of(world) == corrections_of(world, anew=True) == []
    assert world.labels() == {name: 0}


def test_a_second_person_may_keep_the_label_and_a_third_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = labelled_by_two(world, monkeypatch)
    world.say(name, person("ana"), 0, **CORRECTS)
    kept = world.say(name, person("cy"), 1, **CORRECTS)
    assert (kept.is_label, kept.differs, kept.keeps) == (False, True, True)
    (one,) = corrections_of(world)
    assert [said.opinion.analyst for said in one.asks] == ["ana"]
    assert [said.opinion.analyst for said in one.keeps] == ["cy"]
    done = world.say(name, person("dora"), 1, **CORRECTS)
    assert (done.is_label, done.agreed, done.keeps) == (True, ("cy",), True)
    assert corrections_of(world) == corrections_of(world, anew=True) == []
    assert world.labels() == {name: 1}


def test_who_asked_for_a_correction_may_take_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = labelled_by_two(world, monkeypatch)
    world.say(name, person("ana"), 0, **CORRECTS)
    back = world.say(name, person("ana"), 1, **CORRECTS)
    assert (back.is_label, back.differs, back.keeps) == (False, False, True)
    assert corrections_of(world) == corrections_of(world, anew=True) == []
    with pytest.raises(Refused, match="is labelled fraud: a correction says the other outcome"):
        world.say(name, person("cy"), 1, **CORRECTS)


def test_a_correction_ends_with_its_decision_and_its_words_with_an_erasure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, erased = labelled_by_two(world, monkeypatch), labelled_by_two(world, monkeypatch)
    for name in (gone, erased):
        secret = {**CORRECTS, "note": f"SECRET of {name}"}
        world.say(name, person("ana"), 0, **secret)
    assert [one.decision_id for one in corrections_of(world)] == [gone, erased]
    append(world.log, "gateway-0", void(gone, world.platform.clock.wall_ms()))
    asked = ErasureRequest("a1", "Ann Lee", "request 4711", decision_id=erased)
    assert erase(world.log, world.home.decisions, asked, now_ms=NOW_MS).is_done
    assert job.advance(world.platform, "fraud")
    assert corrections_of(world) == []
    folder = queue_file.file_of(world.home.counted, "fraud").parent
    assert not any(b"SECRET" in file.read_bytes() for file in folder.glob("review-1.db*"))


def test_a_queue_of_an_earlier_release_is_made_again_with_its_corrections(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = labelled_by_two(world, monkeypatch)
    world.say(name, person("ana"), 0, **CORRECTS)
    with closing(sqlite.connect(queue_file.file_of(world.home.counted, "fraud"))) as db:
        (text,) = db.execute("SELECT declaration FROM stands_for").fetchone()
        earlier = {k: v for k, v in msgspec.json.decode(text).items() if k != "revision"}
        declared = msgspec.json.encode(earlier).decode()
        db.execute("UPDATE stands_for SET declaration = ?", (declared,))
        db.execute("DROP TABLE corrections")
    assert job.advance(world.platform, "fraud")
    assert [one.decision_id for one in corrections_of(world)] == [name]


def test_many_corrections_are_read_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlplatform.operations.review.corrections.FEW", 1)
    names = [labelled_by_two(world, monkeypatch) for _ in range(3)]
    for name in names:
        world.say(name, person("ana"), 0, **CORRECTS)
    one_by_one = corrections_of(world)
    assert [one.decision_id for one in one_by_one] == names
    assert corrections_of(world, anew=True) == one_by_one
    shown, total = job.pending_corrections(world.platform, "fraud", 2)
    assert ([one.decision_id for one in shown], total) == (names[:2], 3)


def test_what_can_not_be_corrected_is_refused_and_kept(world: World) -> None:
    ana, open_, own, shops, gone = person("ana"), *(world.decide() for _ in range(4))
    now_ms = world.platform.clock.wall_ms()
    world.say(own, ana, 1)
    append(world.log, "gateway-0", label(shops, now_ms), label(gone, now_ms), void(gone, now_ms))
    how = {"note": "the wrong key", "corrects": True}
    for name, who, outcome, why in (
        (open_, ana, 1, f"no label to correct: `mlplatform review record {open_}"),
        (own, ana, 1, f"{own} is labelled fraud: a correction says the other outcome"),
        (shops, ana, 0, "is of shop: the application corrects it by sending the right one"),
        (gone, ana, 0, "was voided"),
        (own, person("vera", "fraud:view"), 0, "has no scope fraud:review"),
    ):
        with pytest.raises(Refused, match=why):
            world.say(name, who, outcome, **how)
        assert any(why in kept for kept in world.refused(who.name))
    with pytest.raises(InputInvalid, match="the reason: 'x' has 1 character; wanted: 5 to 500"):
        world.say(own, ana, 0, note="x", corrects=True)
    assert world.labels()[own] == 1


def test_a_label_that_was_shown_has_to_hold_still(world: World) -> None:
    name = world.decide()
    world.say(name, person("ana"), 1)
    seen = job.correction_digest(job.labelled_decision(world.platform, "fraud", name))
    how = {"note": "the wrong key", "corrects": True}
    world.say(name, person("bo"), 0, **how)
    with pytest.raises(Refused, match="another answer came since this label was shown"):
        world.say(name, person("cy"), 0, seen=seen, **how)


def test_an_erased_decision_can_be_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask_two(monkeypatch)
    name = world.decide()
    assert world.waiting() == [name]
    world.say(name, person("ana"))
    asked = ErasureRequest("a1", "Ann Lee", "request 4711", decision_id=name)
    assert erase(world.log, world.home.decisions, asked, now_ms=NOW_MS).is_done
    assert world.waiting() == [name]
    found = job.queued_decision(world.platform, "fraud", name)
    assert found is not None
    assert not world.say(name, person("bo"), seen=job.opinions_digest(found.opinions)).is_label
    assert world.say(name, person("ana")).is_label, "her word of before is erased"
    assert world.waiting() == []


def test_who_may_not_and_what_can_not_is_refused_and_kept(world: World) -> None:
    name, approved, taken = world.decide(), world.decide("approve"), world.decide()
    append(world.log, "gateway-0", label(taken, NOW_MS, 0))
    for who in (person("eva", "*:*"), person("otto", "fraud:operate", "other:review")):
        with pytest.raises(Refused, match="has no scope fraud:review"):
            world.say(name, who)
        assert len(world.refused(who.name)) == 1
    ana = person("ana")
    for of, why in (
        (approved, "people review only decisions of review, decline"),
        (taken, "has a label by now"),
    ):
        with pytest.raises(Refused, match=why):
            world.say(of, ana)
    append(world.log, "gateway-0", void(name, NOW_MS))
    with pytest.raises(Refused, match="voided"):
        world.say(name, ana)
    with pytest.raises(NotFound):
        world.say("0" * 42, ana)
    foreign = world.decide(model="credit-default")
    with pytest.raises(Refused, match="was given to ana"):
        world.say(foreign, ana)
    with pytest.raises(InputInvalid, match="wanted: 0 to 500"):
        world.say(name, ana, note="x" * 501)
    with pytest.raises(InputInvalid, match="an invisible character"):
        world.say(name, ana, note="fine\u202e")
    assert world.labels() == {taken: 0}
    assert len(world.refused("ana")) == 5, "one of them by the rule of labels, and by us"


def test_a_key_proves_who_says_so(world: World) -> None:
    with pytest.raises(Refused, match="no person has the name 'ana' and this key"):
        job.person(world.platform, "ana", b"mlp_guess", "label d1")
    assert len(world.refused("unknown")) == 1


def test_of_many_at_once_one_labels_and_the_others_are_told(world: World) -> None:
    name = world.decide()

    def say(number: int) -> bool:
        try:
            return world.say(name, person(f"p{number}"), number % 2).is_label
        except Refused:
            return False

    with ThreadPoolExecutor(8) as people:
        assert sum(people.map(say, range(8))) == 1
    assert len(world.held(name)) == 1


def test_a_pass_that_takes_in_much_holds_no_answer_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "ANSWER_WAITS_MS", 10)
    name = world.decide()
    assert world.waiting() == [name]
    with closing(sqlite.connect(queue_file.file_of(world.home.counted, "fraud"))) as taking_in:
        taking_in.execute("BEGIN IMMEDIATE")
        begun_s = time.monotonic()
        assert world.say(name, person("ana")).is_label
        assert time.monotonic() - begun_s < recording.WAIT_S
        taking_in.execute("ROLLBACK")
    assert world.waiting() == [], "the queue follows the log all the same"


def test_a_turn_is_waited_for_within_bounds(tmp_path: Path) -> None:
    with (
        recording.turn(tmp_path),
        pytest.raises(Busy, match="try again"),
        recording.turn(tmp_path, wait_s=0.0),
    ):
        pass


def test_a_log_that_takes_nothing_refuses_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.decide()

    def full(*_: object) -> Any:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteDecisionLog, "append", full)
        with pytest.raises(Unavailable):
            world.say(name, person("ana"))
    assert world.labels() == {}
    assert world.waiting() == [name]
    assert world.say(name, person("ana")).is_label
