"""`BundleStore`, over a folder and a bucket: what one machine puts, others fetch, or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from mlplatform.model.bundle import BUNDLE_FILE, MODEL_FILE, load_bundle, write_bundle
from mlplatform.model.weights.data_files import data_of
from mlplatform.rollouts.bundles import fetch as fetches
from mlplatform.rollouts.bundles.background import BackgroundFetches, BeingFetched
from mlplatform.rollouts.bundles.cache import AT_ONCE, KEPT_FOLDER, BundleCache
from mlplatform.rollouts.bundles.plan import KEPT_S, LEFT_FREE_BYTES
from mlplatform.rollouts.bundles.store import BundleStore, is_complete, put_bundle, stored_files
from mlplatform.runtime.errors import Corrupt, NotFound, Unavailable
from support.platform_process import wait
from support.stored_bundles import WEIGHTS, WatchedStore, store_at, weighty_bundle

SMALL: Final = 300_000
LARGE: Final = 24 << 20
MACHINE: Final = Path(__file__).parents[3] / "support" / "stored_bundles.py"


@dataclass(frozen=True)
class Place:
    """A store, and what somebody with rights of their own does in it."""

    store: BundleStore
    place: str
    s3: Any = None

    def overwrite(self, bundle: str, name: str, content: bytes) -> None:
        if self.s3 is None:
            (Path(self.place) / bundle / name).write_bytes(content)
            return
        bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        self.s3.put_object(
            Bucket=bucket,
            Key=f"{prefix}/{bundle}/{name}",
            Body=content,
            Metadata={"sha256": self.store.find(bundle, name).sha256},  # type: ignore[union-attr]
        )

    def remove(self, bundle: str, name: str) -> None:
        if self.s3 is None:
            (Path(self.place) / bundle / name).unlink()
            return
        bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        self.s3.delete_object(Bucket=bucket, Key=f"{prefix}/{bundle}/{name}")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        yield Place(store_at(str(tmp_path / "store")), str(tmp_path / "store"))
        return
    s3 = request.getfixturevalue("s3")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    where = f"s3://{s3.bucket()}/{uuid.uuid4().hex}/bundles"
    yield Place(store_at(where), where, s3.client())


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """The folder of the machine that trained a bundle, and the bundle's digest."""
    folder = tmp_path / "made"
    return folder, weighty_bundle(folder, SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def machine(tmp_path: Path, name: str = "machine") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_another_machine_gets_the_bundle_and_its_next_start_needs_no_store(
    place: Place, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle = made
    told: list[tuple[int, int]] = []
    assert BundleCache(folder, place.store).put(bundle) == [MODEL_FILE, WEIGHTS, BUNDLE_FILE]
    watched = WatchedStore(place.store)
    cache = BundleCache(machine(tmp_path), watched)
    found = cache.get(bundle, lambda done, total: told.append((done, total)))
    assert found == cache.folder / bundle
    assert contents(found) == contents(folder / bundle)
    assert load_bundle(found, bundle).digest == bundle
    assert told[-1][0] == told[-1][1] > SMALL
    read = watched.read_bytes
    assert cache.get(bundle) == found
    assert watched.read_bytes == read
    assert [p.name for p in cache.folder.iterdir() if p.name != KEPT_FOLDER] == [bundle]
    assert place.store.bundles() == [bundle]
    assert stored_files(place.store, bundle) == [MODEL_FILE, WEIGHTS, BUNDLE_FILE]


def test_a_bundle_is_put_once_with_its_description_last(
    place: Place, made: tuple[Path, str]
) -> None:
    folder, bundle = made
    watched = WatchedStore(place.store)
    put_bundle(watched, folder / bundle, bundle)
    assert watched.put_names == [MODEL_FILE, WEIGHTS, BUNDLE_FILE]
    assert put_bundle(watched, folder / bundle, bundle) == []
    assert put_bundle(watched, folder / bundle, bundle, reads=True) == []
    assert len(watched.put_names) == 3


def test_a_put_that_was_cut_off_shows_nothing_and_is_continued(
    place: Place, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle = made

    def cut_off(name: str) -> None:
        if name == BUNDLE_FILE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put_bundle(WatchedStore(place.store, on_put=cut_off), folder / bundle, bundle)
    assert not is_complete(place.store, bundle)
    with pytest.raises(NotFound, match=rf"{bundle}/bundle\.json is not in the bundle store"):
        BundleCache(machine(tmp_path), place.store).get(bundle)
    assert put_bundle(place.store, folder / bundle, bundle) == [BUNDLE_FILE]
    assert is_complete(place.store, bundle)


@pytest.mark.parametrize("name", [WEIGHTS, MODEL_FILE, BUNDLE_FILE])
def test_a_changed_byte_refuses_the_bundle_by_file_and_digests_until_it_is_put_again(
    place: Place, made: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    folder, bundle = made
    put_bundle(place.store, folder / bundle, bundle)
    right = (folder / bundle / name).read_bytes()
    wrong = right[:7] + bytes([right[7] ^ 1]) + right[8:]
    place.overwrite(bundle, name, wrong)
    cache = BundleCache(machine(tmp_path), place.store)
    stated = load_bundle(folder / bundle).files.get(name, bundle)
    with pytest.raises(Corrupt) as refused:
        cache.get(bundle)
    message = str(refused.value)
    assert f"{bundle}/{name} was changed: its SHA-256 is " in message
    assert f", not {stated}; `mlplatform models store MODEL --check`" in message
    assert not (cache.folder / bundle).exists()
    assert put_bundle(place.store, folder / bundle, bundle, reads=True) == [name]
    assert contents(cache.get(bundle)) == contents(folder / bundle)


def test_a_missing_file_is_named_with_the_way_out(
    place: Place, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle = made
    put_bundle(place.store, folder / bundle, bundle)
    place.remove(bundle, WEIGHTS)
    cache = BundleCache(machine(tmp_path), place.store)
    with pytest.raises(NotFound, match=rf"{WEIGHTS} is not in the bundle store: `mlplatform mod"):
        cache.get(bundle)
    assert put_bundle(place.store, folder / bundle, bundle, reads=True) == [WEIGHTS]
    assert contents(cache.get(bundle)) == contents(folder / bundle)


def fetching(folder: Path, place: Place, bundle: str, pause_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(MACHINE), str(folder), place.place, bundle, str(pause_s)]
    environment = os.environ | {"PYTHONPATH": str(MACHINE.parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def test_a_fetch_that_was_killed_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    bundle = weighty_bundle(folder, LARGE)
    put_bundle(place.store, folder / bundle, bundle)
    there = machine(tmp_path)
    partial = there / KEPT_FOLDER / "drafts" / bundle / f".{WEIGHTS}.part"
    process = fetching(there, place, bundle, 0.3)
    wait(lambda: partial.is_file() and partial.stat().st_size >= 8 << 20, "a first part is here")
    process.send_signal(signal.SIGKILL)
    process.wait()
    here = partial.stat().st_size
    assert not (there / bundle).exists()

    watched = WatchedStore(place.store)
    assert contents(BundleCache(there, watched).get(bundle)) == contents(folder / bundle)
    assert 0 < watched.read_bytes <= LARGE - here + SMALL


def test_a_first_part_that_a_crash_spoilt_is_fetched_anew(
    place: Place, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle = made
    put_bundle(place.store, folder / bundle, bundle)
    there = machine(tmp_path)
    draft = there / KEPT_FOLDER / "drafts" / bundle
    draft.mkdir(parents=True)
    (draft / f".{WEIGHTS}.part").write_bytes(bytes(1000))
    (draft / MODEL_FILE).write_bytes(b"torn")
    assert contents(BundleCache(there, place.store).get(bundle)) == contents(folder / bundle)


def test_processes_that_need_one_bundle_at_once_fetch_it_once(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    bundle = weighty_bundle(folder, LARGE)
    put_bundle(place.store, folder / bundle, bundle)
    there = machine(tmp_path)
    processes = [fetching(there, place, bundle, 0.1) for _ in range(3)]
    read = sorted(int(process.communicate(timeout=60)[0]) for process in processes)
    total = sum(path.stat().st_size for path in (folder / bundle).iterdir())
    assert read == [0, 0, total]
    assert contents(there / bundle) == contents(folder / bundle)


@pytest.mark.parametrize(("volume_bytes", "at_once"), [(0, AT_ONCE), (10**9, 1)])
def test_a_machine_fetches_few_bundles_at_once(
    place: Place, tmp_path: Path, volume_bytes: int, at_once: int
) -> None:
    """One at a time into a volume with a limit, where each has to count what the others took."""
    folder = tmp_path / "made"
    bundles = [weighty_bundle(folder, SMALL, seed) for seed in range(4)]
    for bundle in bundles:
        put_bundle(place.store, folder / bundle, bundle)
    there, most = machine(tmp_path), 0
    drafts = there / KEPT_FOLDER / "drafts"

    def count() -> None:
        nonlocal most
        most = max(most, len(list(drafts.glob("*"))))
        time.sleep(0.05)

    caches = [
        BundleCache(there, WatchedStore(place.store, count), volume_bytes=volume_bytes)
        for _ in bundles
    ]
    with ThreadPoolExecutor(len(bundles)) as threads:
        list(threads.map(lambda one: one[0].get(one[1]), zip(caches, bundles, strict=True)))
    assert bundles_in(there) == set(bundles)
    assert most == at_once


def test_a_store_that_breaks_off_is_read_on_and_one_that_gives_nothing_is_given_up(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "PAUSE_S", 0.0)
    folder = tmp_path / "made"
    bundle = weighty_bundle(folder, LARGE)
    put_bundle(place.store, folder / bundle, bundle)
    pieces = 0

    def breaks() -> None:
        nonlocal pieces
        pieces += 1
        if pieces % 3 == 0:
            raise Unavailable("the connection broke")

    watched = WatchedStore(place.store, breaks)
    there = machine(tmp_path)
    assert contents(BundleCache(there, watched).get(bundle)) == contents(folder / bundle)
    assert watched.read_bytes == sum(p.stat().st_size for p in (folder / bundle).iterdir())

    asked = 0

    def silent() -> None:
        nonlocal asked
        asked += 1
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable, match="broke"):
        BundleCache(machine(tmp_path, "other"), WatchedStore(place.store, silent)).get(bundle)
    assert asked == fetches.TRIES


def test_a_full_disk_is_told_before_weights_are_read(
    place: Place, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bundle = made
    put_bundle(place.store, folder / bundle, bundle)
    watched = WatchedStore(place.store)
    cache, usage = BundleCache(machine(tmp_path), watched), shutil.disk_usage(tmp_path)
    free = LEFT_FREE_BYTES + SMALL // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(Unavailable, match=rf"bundle {bundle} in .* needs .* are free: make room"):
        cache.get(bundle)
    assert watched.read_bytes < SMALL


def test_a_volume_with_a_limit_is_never_outgrown(place: Place, tmp_path: Path) -> None:
    """What routes name stays, as on a full disk; what nothing needs leaves for what is fetched."""
    made = tmp_path / "made"
    first, second = (weighty_bundle(made, SMALL, seed) for seed in range(2))
    for bundle in (first, second):
        put_bundle(place.store, made / bundle, bundle)
    named, there = [first], machine(tmp_path)
    volume = int(1.5 * SMALL) + LEFT_FREE_BYTES
    cache = BundleCache(there, place.store, 99 * SMALL, lambda: named, volume)
    cache.get(first)
    with pytest.raises(Unavailable, match="of its volume are left"):
        cache.get(second)
    assert [p.name for p in there.glob("[!.]*")] == [first]
    used = there / ".store" / "used" / first
    os.utime(used, (0, 0))
    named.clear()
    cache.get(second)
    assert [p.name for p in there.glob("[!.]*")] == [second]


def test_a_disk_that_fills_up_meanwhile_keeps_what_is_there(
    place: Place, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bundle = made
    put_bundle(place.store, folder / bundle, bundle)
    cache = BundleCache(machine(tmp_path), place.store)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as changed:
        changed.setattr(fetches.os, "fsync", full)  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match="the disk is full; make room there"):
            cache.get(bundle)
    assert not (cache.folder / bundle).exists()
    assert contents(cache.get(bundle)) == contents(folder / bundle)


def test_weights_that_another_bundle_here_has_are_shared(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    first = weighty_bundle(folder, SMALL)
    put_bundle(place.store, folder / first, first)
    there = machine(tmp_path)
    cache = BundleCache(there, place.store)
    cache.get(first)
    other = retuned(folder, first)
    put_bundle(place.store, folder / other, other)
    watched = WatchedStore(place.store)
    found = BundleCache(there, watched).get(other)
    assert watched.read_bytes < SMALL
    assert (found / WEIGHTS).samefile(there / first / WEIGHTS)
    assert contents(found) == contents(folder / other)


def retuned(folder: Path, bundle: str) -> str:
    """A bundle with other thresholds and the same files."""
    loaded = load_bundle(folder / bundle)
    other = msgspec.structs.replace(loaded, thresholds={"review": 0.4, "decline": 0.8})
    model = (folder / bundle / MODEL_FILE).read_bytes()
    data = data_of(folder / bundle, loaded.files)
    return write_bundle(other, model, folder / other.digest, data=data)


def unused(cache: BundleCache, *bundles: str) -> None:
    long_ago_s = time.time() - KEPT_S - 100
    for number, bundle in enumerate(bundles):
        used = cache.folder / KEPT_FOLDER / "used" / bundle
        os.utime(used, (long_ago_s + number, long_ago_s + number))


def test_what_is_not_needed_leaves_for_what_is_and_can_be_fetched_again(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    first, second, third, fourth = (weighty_bundle(folder, SMALL, seed) for seed in range(4))
    for bundle in (first, second, third, fourth):
        put_bundle(place.store, folder / bundle, bundle)
    there = machine(tmp_path)
    named: set[str] | None = None
    cache = BundleCache(there, place.store, int(3.5 * SMALL), lambda: named)
    own = weighty_bundle(there, SMALL, 9)  # made here, and never put
    for bundle in (first, second):
        cache.get(bundle)
    unused(cache, first, second)

    cache.get(third)
    assert bundles_in(there) == {own, first, second, third}, "nothing goes if it isn't known"

    unused(cache, first, second, third)
    named = {first}
    cache.get(fourth)
    assert bundles_in(there) == {own, first, fourth}
    cache.trim()
    assert bundles_in(there) == {own, first, fourth}
    named = set()
    unused(cache, fourth, first)
    assert contents(cache.get(second)) == contents(folder / second)


def bundles_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[!.]*")}


def test_who_may_not_wait_is_told_how_far_the_fetch_is(
    place: Place, made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, bundle = made
    there = machine(tmp_path)
    slow = WatchedStore(place.store, lambda: time.sleep(0.2))
    background = BackgroundFetches(BundleCache(there, slow))
    with pytest.raises(BeingFetched, match=f"bundle {bundle} is being fetched"):
        background.need(bundle)

    def fails() -> bool:
        try:
            background.need(bundle)
        except NotFound as error:
            return "bundle.json is not in the bundle store" in str(error)
        except BeingFetched:
            return False
        return False

    wait(fails, "it says why it failed")
    put_bundle(place.store, folder / bundle, bundle)

    def is_here() -> bool:
        try:
            background.need(bundle)
        except (BeingFetched, NotFound):
            return False
        return True

    wait(is_here, "it tries again by itself")
    assert contents(there / bundle) == contents(folder / bundle)


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    store = store_at(str(tmp_path / "unmounted"))
    with pytest.raises(Unavailable, match="there is no such folder"):
        store.bundles()
    with pytest.raises(Unavailable, match="there is no such folder"):
        BundleCache(machine(tmp_path), store).get("0" * 64)


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_told(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="the objects below s3://no-such-bucket"):
        store_at("s3://no-such-bucket/bundles").bundles()


def test_why_a_store_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_DEFAULT_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in (closed | keys).items():
        monkeypatch.setenv(name, value)
    cache = BundleCache(machine(tmp_path), store_at("s3://models/prod"))
    background, reason = BackgroundFetches(cache), ""

    def is_told() -> bool:
        nonlocal reason
        try:
            background.need("0" * 64)
        except BeingFetched:
            return False
        except Unavailable as error:
            reason = str(error)
        return True

    wait(is_told)
    problem = (
        "the objects below s3://models/prod can't be reached: Could not connect to the endpoint"
    )
    assert problem in reason
