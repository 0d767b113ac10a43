"""What every backend of the admission port promises: keys, and tokens that are given once."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlplatform.runtime.errors import NotFound, Refused, Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.scoring.admission.bucket import Level, Take, full, take_tokens
from mlplatform.scoring.admission.clients import RateLimit, Scope
from mlplatform.scoring.admission.keyring import FIRST_CLIENT, Keyring, create_key, ensure_first_key
from mlplatform.scoring.admission.postgres import PostgresKeys
from mlplatform.scoring.admission.redis import RedisBuckets
from mlplatform.scoring.admission.secrets import digest
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform.scoring.admission.store import Admission, KeysAndBuckets

NOW_MS = 1_767_225_600_000
SCOPES = frozenset({Scope("fraud", "score"), Scope("*", "read")})
LIMIT = RateLimit(10.0, 20)
Opener = Callable[[], Admission]


@dataclass(frozen=True)
class Place:
    """Where a store is; another process can be told."""

    file: Path | None = None
    postgres: Address | None = None
    redis: Address | None = None

    def open(self) -> Admission:
        if self.file is not None:
            return SqliteAdmission(self.file)
        assert self.postgres is not None
        assert self.redis is not None
        return KeysAndBuckets(PostgresKeys(self.postgres), RedisBuckets(self.redis, answer_s=10))


SERVERS = pytest.param("servers", marks=[pytest.mark.postgres, pytest.mark.redis])


@pytest.fixture(params=["sqlite", SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(tmp_path / "admission.db")
        return
    postgres, redis = (request.getfixturevalue(name) for name in ("postgres", "redis"))
    redis.empty()
    database = postgres.database()
    yield Place(postgres=database, redis=redis.address)
    postgres.drop(database)


@pytest.fixture
def opener(place: Place) -> Opener:
    """Each call is another connection to the same store, as another process would have."""
    return place.open


def made(store: Admission, client: str = "shop", **changes: object) -> tuple[str, bytes]:
    """A key's id and secret."""
    given = {"priority": "standard", "limit": LIMIT, "now_ms": NOW_MS} | changes
    key, secret = create_key(store, client, SCOPES, **given)  # type: ignore[arg-type]
    return key.id, secret.encode()


def test_a_key_reads_back_as_it_was_made_and_its_secret_is_not_there(
    opener: Opener, tmp_path: Path
) -> None:
    store = opener()
    key, secret = create_key(
        store, "shop", SCOPES, priority="critical", limit=LIMIT, now_ms=1, expires_ms=5
    )
    assert opener().all_keys() == [key]
    assert key.digest == digest(secret.encode()).hex()
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_key_is_stored_once(opener: Opener) -> None:
    store = opener()
    made(store)
    (key,) = store.all_keys()
    with pytest.raises(Refused):
        store.add(key)
    assert store.all_keys() == [key]


def test_revoking_names_a_key_or_a_client_and_keeps_the_first_time(opener: Opener) -> None:
    store = opener()
    first, second = made(store)[0], made(store)[0]
    other = made(store, "bank")[0]
    assert [k.id for k in store.revoke(first, NOW_MS + 1)] == [first]
    assert [k.id for k in store.revoke("shop", NOW_MS + 2)] == [second]
    assert store.revoke("shop", NOW_MS + 3) == []
    revoked = {k.id: k.revoked_ms for k in opener().all_keys()}
    assert revoked == {first: NOW_MS + 1, second: NOW_MS + 2, other: None}
    with pytest.raises(NotFound):
        store.revoke("nobody", NOW_MS)


def test_the_version_grows_with_keys_and_not_with_tokens(opener: Opener) -> None:
    store, other = opener(), opener()
    versions = [other.version()]
    made(store)
    versions.append(other.version())
    store.take([Take("b", LIMIT, 1)], NOW_MS)
    assert other.version() == versions[-1]
    store.revoke("shop", NOW_MS)
    versions.append(other.version())
    assert versions == sorted(set(versions))


def test_a_bucket_begins_full_gives_whole_tokens_and_says_when_there_are_more(
    opener: Opener,
) -> None:
    store, other = opener(), opener()
    (taken,) = store.take([Take("b", LIMIT, 15)], NOW_MS)
    assert (taken.tokens, taken.retry_after_s) == (15, 0.0)
    (taken,) = other.take([Take("b", LIMIT, 15)], NOW_MS)
    assert (taken.tokens, taken.retry_after_s) == (5, pytest.approx(0.1))
    (taken,) = store.take([Take("b", LIMIT, 15)], NOW_MS + 250)
    assert (taken.tokens, taken.retry_after_s) == (2, pytest.approx(0.05))
    (taken,) = store.take([Take("b", LIMIT, 99)], NOW_MS + 3_600_000)
    assert taken.tokens == LIMIT.burst


def test_several_buckets_are_taken_from_in_order(opener: Opener) -> None:
    takes = [Take("a", LIMIT, 3), Take("b", LIMIT, 30), Take("a", LIMIT, 30)]
    assert [t.tokens for t in opener().take(takes, NOW_MS)] == [3, 20, 17]


def test_any_walk_of_takes_gives_what_the_bucket_says(opener: Opener) -> None:
    store, draw = opener(), random.Random(5)
    limits = [RateLimit(0.3, 2), RateLimit(7.7, 9), RateLimit(10_000.0, 50_000)]
    levels: dict[str, Level] = {}
    now_ms = NOW_MS
    for _ in range(300):
        now_ms += draw.choice([0, 1, 13, 999, 60_000, -500])
        limit = draw.choice(limits)
        take = Take(f"b{limit.burst}", limit, draw.choice([1, 2, 5, limit.burst]))
        level = levels.get(take.bucket) or full(limit, now_ms)
        levels[take.bucket], expected = take_tokens(level, take, now_ms)
        (given,) = store.take([take], now_ms)
        assert given.tokens == expected.tokens
        assert given.retry_after_s == pytest.approx(expected.retry_after_s, abs=1e-9)


def test_a_clock_that_is_set_back_gives_nothing(opener: Opener) -> None:
    store = opener()
    store.take([Take("b", LIMIT, 20)], NOW_MS)
    assert store.take([Take("b", LIMIT, 1)], NOW_MS - 60_000)[0].tokens == 0
    assert store.take([Take("b", LIMIT, 99)], NOW_MS + 100)[0].tokens == 1


def _drain(place: Place, now_ms: int, given: multiprocessing.Queue[int]) -> None:
    store, take = place.open(), Take("b", RateLimit(1.0, 500), 3)
    given.put(sum(store.take([take], now_ms)[0].tokens for _ in range(200)))


def test_two_processes_get_no_more_than_there_is(place: Place) -> None:
    place.open()
    context = multiprocessing.get_context("spawn")
    given: multiprocessing.Queue[int] = context.Queue()
    now_ms = time.time_ns() // 1_000_000
    processes = [context.Process(target=_drain, args=(place, now_ms, given)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sum(given.get(timeout=60) for _ in processes) == 500
    for process in processes:
        process.join()


def test_a_keyring_sees_keys_that_others_make_and_revoke(opener: Opener) -> None:
    keyring = Keyring(opener(), lambda: NOW_MS, lambda: None)
    other = opener()
    key_id, secret = made(other)
    assert keyring.client(secret, digest(secret)) is None
    keyring.poll()
    client = keyring.client(secret, digest(secret))
    assert client is not None
    assert (client.name, client.limit) == ("shop", LIMIT)
    assert client.may("fraud", "score")
    assert not client.may("credit", "score")
    other.revoke(key_id, NOW_MS)
    keyring.poll()
    assert keyring.client(secret, digest(secret)) is None


def test_a_running_keyring_follows_without_being_asked(opener: Opener) -> None:
    keyring = Keyring(opener(), lambda: NOW_MS, lambda: None)
    keyring.start()
    try:
        _, secret = made(opener())
        end_s = time.monotonic() + 10
        while keyring.client(secret, digest(secret)) is None:
            assert time.monotonic() < end_s
            time.sleep(0.05)
    finally:
        keyring.stop()


def test_a_clients_newest_key_says_its_limit(opener: Opener) -> None:
    store = opener()
    _, old = made(store)
    _, new = made(store, limit=RateLimit(5.0, 5), priority="background", now_ms=NOW_MS + 1)
    keyring = Keyring(store, lambda: NOW_MS + 2, lambda: None)
    for secret in (old, new):
        client = keyring.client(secret, digest(secret))
        assert client is not None
        assert (client.limit, client.priority) == (RateLimit(5.0, 5), "background")


def test_the_first_key_is_made_once_and_is_its_owners_alone(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "api.key"
    ensure_first_key(opener(), path, NOW_MS)
    secret = path.read_bytes()
    ensure_first_key(opener(), path, NOW_MS + 1)
    (key,) = opener().all_keys()
    assert (key.client, key.digest) == (FIRST_CLIENT, digest(secret).hex())
    assert path.stat().st_mode & 0o077 == 0


def test_a_first_key_from_before_keeps_working_and_a_revoked_one_stays_so(
    opener: Opener, tmp_path: Path
) -> None:
    path = tmp_path / "api.key"
    path.write_text("a-key-of-an-earlier-release\n")
    store = opener()
    ensure_first_key(store, path, NOW_MS)
    keyring = Keyring(opener(), lambda: NOW_MS, lambda: None)
    secret = b"a-key-of-an-earlier-release"
    assert keyring.client(secret, digest(secret)) is not None
    store.revoke(FIRST_CLIENT, NOW_MS)
    ensure_first_key(store, path, NOW_MS)
    path.unlink()
    ensure_first_key(store, path, NOW_MS)
    keyring.poll()
    assert keyring.client(secret, digest(secret)) is None
    assert not path.exists()


def test_a_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "admission.db"
    store = SqliteAdmission(path, busy_timeout_ms=10)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match=r"admission\.db"):
        store.take([Take("b", LIMIT, 1)], NOW_MS)
    holder.execute("ROLLBACK")
    holder.close()
    assert store.take([Take("b", replace(LIMIT), 1)], NOW_MS)[0].tokens == 1
    store.close()
