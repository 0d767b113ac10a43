"""Bytes that are no JSON, wherever they are read: each reader refuses them by its own error."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, TopicSpec
from mlplatform.model.bundle import BUNDLE_FILE, BundleCorrupt, load_bundle
from mlplatform.operations.supervisor.probe import _reason
from mlplatform.rollouts.serving.local import bundle_folder, read_manifest
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, Unavailable
from mlplatform.runtime.telemetry import redaction
from mlplatform.scoring.admission.jwks import verify_keys

BYTES = {
    "cut off": b'{"a": ',
    "not UTF-8 in a value": b'{"a": "\xff"}',
    "not UTF-8 in a name": b'{"\xffa": 1}',
    "nested without end": b"[" * 100_000,
    "nothing": b"",
}


def _manifest(data: bytes, folder: Path) -> object:
    (folder / "a.json").write_bytes(data)
    return read_manifest(folder / "a.json")


def _bundle(data: bytes, folder: Path) -> object:
    (folder / BUNDLE_FILE).write_bytes(data)
    return load_bundle(folder)


def _headers(data: bytes, folder: Path) -> object:
    """Of a message that was stored, and changed since."""
    path = folder / "topics.db"
    with closing(LocalTopics(path, [TopicSpec("t", partitions=1)])) as topics:
        topics.publish([Message("t", b"k", b"v", {})])
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE messages SET headers = ?", [data])
            db.commit()
        with closing(topics.subscribe(["t"], "g", "m")) as subscription:
            return subscription.consume(1, 0.0)


READERS: dict[str, tuple[Callable[[bytes, Path], object], type[Exception]]] = {
    "a JWK Set": (lambda data, _: verify_keys(data), Unavailable),
    "a manifest": (_manifest, ConfigInvalid),
    "a bundle": (_bundle, BundleCorrupt),
    "headers of a message": (_headers, Corrupt),
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_bytes_that_are_no_json_are_refused(
    data: bytes, reader: tuple[Callable[[bytes, Path], object], type[Exception]], tmp_path: Path
) -> None:
    read, refused_by = reader
    with pytest.raises(refused_by):
        read(data, tmp_path)


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_what_a_probed_process_says_ends_no_supervisor(data: bytes) -> None:
    assert _reason(500, data) == "answers 500"


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_a_body_that_is_no_json_is_still_searched_for_values_to_redact(data: bytes) -> None:
    assert all(isinstance(value, str) for value in redaction._values(data))


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_every_way_to_be_no_json_is_named(data: bytes) -> None:
    with pytest.raises(NOT_JSON):
        msgspec.json.decode(data)


@pytest.mark.parametrize("uri", ["file://[/b", "file://[]/b", "http://h/b", "file:", "b"])
def test_a_bundle_is_a_file_uri_of_this_machine(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="storageUri"):
        bundle_folder(uri, tmp_path)
