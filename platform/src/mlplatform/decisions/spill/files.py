"""A spill: records in an append-only file, each in a frame with its length and its checksum.

A spill exists only while it holds records that are not in the log. A process that appends to it,
or moves it into the log, holds a lock on it, which ends with the process.

A file is a header (magic, 16 random bytes that name this spill) and frames: length of the body
(u32), CRC-32 of event time and body (u32), event time (i64), body (MessagePack of Prepared), all
little-endian. Only a complete frame counts: an incomplete one that a killed write left at the end
is cut.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.decisions.records.prepared_record import StorableRecord
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Busy, Unavailable
from mlplatform.runtime.storage.files import sync
from mlplatform.runtime.units import MIB

FOLDER: Final = "spill"
SUFFIX: Final = ".spill"
DAMAGED: Final = ".damaged"
MAXIMUM_FRAME_BYTES: Final = 8 * MIB
"""Most bytes of a frame, more than any record has. A larger length means damage, and is not
allocated."""

_MAGIC: Final = b"MLSPILL1"
_ID_BYTES: Final = 16
START: Final = len(_MAGIC) + _ID_BYTES
_FRAME: Final = struct.Struct("<IIq")
_EVENT: Final = struct.Struct("<q")
_READ_BYTES: Final = MIB
_logger = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StorableRecord).decode


class SpillFull(Unavailable):
    """The spill accepts nothing more, because its limit is reached or its disk is full."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A record of a spill, with the byte where its frame ends."""

    record: StorableRecord
    start: int
    end: int


def framed(record: StorableRecord) -> bytes:
    """The frame of a record."""
    body = _encode(record)
    event_ms = record.event_ms
    checksum = zlib.crc32(body, zlib.crc32(_EVENT.pack(event_ms)))
    return _FRAME.pack(len(body), checksum, event_ms) + body


def spill_path(folder: Path, writer: str) -> Path:
    """The path of a writer's spill in the folder of spills."""
    return folder / f"{writer}{SUFFIX}"


def spill_id(descriptor: int) -> str | None:
    """The name of the spill behind this descriptor; None while its header is incomplete."""
    header = os.pread(descriptor, START, 0)
    if len(header) < START or not header.startswith(_MAGIC):
        return None
    return header[len(_MAGIC) :].hex()


def frames(descriptor: int, start: int = START, limit: int | None = None) -> Iterator[Frame]:
    """The frames from here on, up to the end or to the first incomplete one."""
    buffer, at, count = b"", 0, 0
    while limit is None or count < limit:
        found = _first(buffer, at)
        if found is None:
            size = max(_READ_BYTES, _body_length(buffer, at))
            more = os.pread(descriptor, size, start + len(buffer))
            if not more:
                return
            buffer, start, at = buffer[at:] + more, start + at, 0
            continue
        end, record = found
        if record is None:
            return
        yield Frame(record, start + at, start + end)
        at, count = end, count + 1


def record_at(descriptor: int, start: int) -> StorableRecord | None:
    """The record of the frame that begins here; None if there is none."""
    return next((frame.record for frame in frames(descriptor, start, 1)), None)


def _body_length(buffer: bytes, at: int) -> int:
    if len(buffer) - at < _FRAME.size:
        return 0
    length: int = _FRAME.unpack_from(buffer, at)[0]
    return min(length, MAXIMUM_FRAME_BYTES)


def _first(buffer: bytes, at: int) -> tuple[int, StorableRecord | None] | None:
    """The end of the frame that begins here, and its record, None if it is damaged.

    None if the buffer does not hold all of it.
    """
    start = at + _FRAME.size
    if len(buffer) < start:
        return None
    length, checksum, event_ms = _FRAME.unpack_from(buffer, at)
    if length > MAXIMUM_FRAME_BYTES:
        return start, None
    if len(buffer) < start + length:
        return None
    body = buffer[start : start + length]
    if zlib.crc32(body, zlib.crc32(_EVENT.pack(event_ms))) != checksum:
        return start + length, None
    try:
        return start + length, _decode(body)
    except NOT_JSON:
        return start + length, None


class SpillFile:
    """The spill of one writer, open for appending; `create` and `take_over` make one.

    Args:
        start: byte offset of the first frame that is not in the log yet.
        end: byte offset behind the last whole frame.
        records: number of frames between `start` and `end`.
    """

    def __init__(self, path: Path, descriptor: int, name: str, end: int, records: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.name = name
        self.start = START
        self.end = end
        self.records = records

    @classmethod
    def create(cls, path: Path, *, durable: bool) -> SpillFile:
        """A new, empty spill.

        Raises:
            SpillFull: the disk accepts no new file.
            Busy: a spill exists already.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise Busy(f"{path} is held by another process") from error
        except OSError as error:
            raise SpillFull(f"{path}: {error.strerror}") from error
        name = os.urandom(_ID_BYTES)
        try:
            _lock(descriptor, path)
            if os.write(descriptor, _MAGIC + name) != START:
                raise SpillFull(f"{path}: no room for a header")
            if durable:
                os.fsync(descriptor)
                sync(path.parent)
        except Busy:  # another process may lock the new file, and remove it because it is empty
            os.close(descriptor)
            raise
        except OSError as error:
            _discard(path, descriptor)
            raise SpillFull(f"{path}: {error.strerror}") from error
        except SpillFull:
            _discard(path, descriptor)
            raise
        return cls(path, descriptor, name.hex(), START, 0)

    @classmethod
    def take_over(cls, path: Path) -> SpillFile | None:
        """The spill that a process left here, with a torn end cut off; None if it is empty.

        Raises:
            Busy: the process that writes the spill is alive.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            _lock(descriptor, path)
            if not _same_file(path, descriptor):
                os.close(descriptor)  # it was moved into the log while this waited for its lock
                return None
            name = spill_id(descriptor)
            if name is None:
                _discard(path, descriptor)  # killed before the first record
                return None
            ends = [frame.end for frame in frames(descriptor)]
            end = ends[-1] if ends else START
            _cut(path, descriptor, end)
        except (Busy, OSError):
            os.close(descriptor)
            raise
        return cls(path, descriptor, name, end, len(ends))

    def append(self, parts: Sequence[bytes], *, maximum_bytes: int, durable: bool) -> None:
        """Write these frames, all or none.

        Raises:
            SpillFull: the limit is reached, or the disk is full; nothing was written.
        """
        data = b"".join(parts)
        if self.end + len(data) > maximum_bytes:
            raise SpillFull(f"{self.path} has reached its limit of {maximum_bytes} bytes")
        try:
            written = os.pwrite(self.descriptor, data, self.end)
            while written < len(data):  # an almost full disk may write only a part
                written += os.pwrite(self.descriptor, data[written:], self.end + written)
            if durable:
                os.fsync(self.descriptor)
        except OSError as error:
            with suppress(OSError):  # the next write starts at the same place in any case
                os.ftruncate(self.descriptor, self.end)
            raise SpillFull(f"{self.path}: {error.strerror}") from error
        self.end += len(data)
        self.records += len(parts)

    def next(self, limit: int) -> list[Frame]:
        """The first frames that are not in the log."""
        return list(frames(self.descriptor, self.start, limit))

    def between(self, end: int) -> Iterator[Frame]:
        """The frames that end at this byte or before."""
        for frame in frames(self.descriptor, self.start):
            if frame.end > end:
                return
            yield frame

    def rename(self, path: Path) -> None:
        """Continue under another writer's name, which has no spill."""
        self.path.rename(path)
        self.path = path

    def advance(self, count: int, end: int) -> None:
        """Note that `count` frames, up to the byte `end`, are in the log now."""
        self.start = end
        self.records -= count

    def remove(self) -> None:
        """Remove the file, all of whose records are in the log."""
        _discard(self.path, self.descriptor)

    def close(self) -> None:
        """Leave the file to the process that takes it over."""
        os.close(self.descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"{path} is being written by another process") from error


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _cut(path: Path, descriptor: int, end: int) -> None:
    """Cut off what follows the last whole frame, with a copy kept unless it is only a torn
    write."""
    size = os.fstat(descriptor).st_size
    if size == end:
        return
    rest = os.pread(descriptor, _FRAME.size, end)
    is_torn = len(rest) < _FRAME.size or end + _FRAME.size + _FRAME.unpack(rest)[0] > size
    if not is_torn:
        aside = path.with_name(f"{path.name}.{spill_id(descriptor)}{DAMAGED}")
        shutil.copy2(path, aside)
        _logger.error("%s is damaged at byte %d; all of it is kept as %s", path, end, aside.name)
    _logger.warning("%s: %d bytes after its last whole record are cut", path, size - end)
    os.ftruncate(descriptor, end)


def _discard(path: Path, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with suppress(OSError):  # the file is closed in any case, and the unwritten rest is not needed
        os.close(descriptor)
