"""Rows for a predictor and scores from it, in the binary form of the Open Inference Protocol v2.

Source: KServe, Open Inference Protocol v2, binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec

from mlplatform.runtime.units import KIB, MIB

INPUT = "inputs"
OUTPUT = "scores"
FLOAT32_MAX = 3.4028234e38
REPLY_HEAD_BYTES, REPLY_NUMBER_BYTES = 64 * KIB, 64
"""Bytes of an answer: for headers and the JSON around its numbers, and for each number."""
REPLY_BYTES = 4 * MIB
HEADER_LENGTH = b"inference-header-content-length"
SERVER_TIMING = b"server-timing"
FailureReason = Literal[
    "deadline",
    "unavailable",
    "invalid_output",
    "breaker_open",
    "volume_limit",
    "queue_full",
    "bulkhead",
    "stalled",
    "killed",
]
"""Why a predictor gave no scores. `breaker_open`: it was not asked. `volume_limit`: its bundle
raised alerts on far more customers than planned. `killed`: a person switched the model off."""

OWN_FAILURES: Final = ("queue_full", "bulkhead", "stalled", "killed")
"""Failures for which the gateway is to blame: it had no room or time to ask, or a person had
switched the model off. They are no evidence about an arm, whatever answered in its place."""


_IN_WORDS: Final = {"killed": "switched off"}
"""Reason of the API, records and metrics → words that people read elsewhere; others are words."""


def reason_words(reason: str) -> str:
    """Why an answer is degraded, in words: "features", "invalid output", "switched off"."""
    return _IN_WORDS.get(reason, reason.replace("_", " "))


class PredictionFailed(Exception):
    """A predictor gave no usable scores; `reason` is the word that goes into the record.

    Args:
        speaks: whether this failure reports how the call ended. One row of each call reports that.
            A failure inside this gateway (`OWN_FAILURES`) never does.
    """

    def __init__(self, reason: FailureReason, detail: str, *, speaks: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: FailureReason = reason
        self.detail = detail
        self.speaks = speaks and reason not in OWN_FAILURES


class _Parameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    data: list[float] | None = None
    parameters: _Parameters = _Parameters()


class _Body(msgspec.Struct, frozen=True):
    outputs: list[_Output]


_decoder = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer of a predictor, header names in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class Scores(list[float]):
    """Raw scores, with the predictor's report of its own time (Server-Timing).

    Args:
        speaks: whether these scores report how the call ended. One row of each call reports that.
    """

    __slots__ = ("speaks", "timing")

    def __init__(
        self, values: Iterable[float], timing: bytes = b"", *, speaks: bool = True
    ) -> None:
        super().__init__(values)
        self.timing = timing
        self.speaks = speaks


class Codec(Protocol):
    """The form of a server's requests for scores, and of its answers."""

    def request(
        self, authority: str, token: str, rows: Sequence[Sequence[float]], more: str = ""
    ) -> bytes:
        """A whole HTTP/1.1 request.

        Args:
            rows: the rows' inputs; all rows have the same width, and NaN is a missing value.
            more: further header lines, each with its line end.
        """
        ...

    def reply_bytes(self, rows: int) -> int:
        """Most bytes of an answer to this many rows, headers included."""
        ...

    def scores(self, reply: Reply, rows: int) -> list[float]:
        """One score for each row, or one for each class of each row.

        Raises:
            PredictionFailed: for the same reasons as in the function `scores`.
        """
        ...


@dataclass(frozen=True, slots=True)
class MatrixCodec:
    """One float32 tensor of all inputs in bytes, as the platform's predictor and Triton take it.

    Args:
        numbers: how many numbers an answer holds for each row.
    """

    service: str
    numbers: int = 1

    def request(
        self, authority: str, token: str, rows: Sequence[Sequence[float]], more: str = ""
    ) -> bytes:
        return infer_request(self.service, authority, token, rows, more)

    def reply_bytes(self, rows: int) -> int:
        return reply_bytes(rows * self.numbers)

    def scores(self, reply: Reply, rows: int) -> list[float]:
        return scores(reply, rows * self.numbers)


def infer_request(
    service: str,
    authority: str,
    token: str,
    rows: Sequence[Sequence[float]],
    more: str = "",
) -> bytes:
    """A whole HTTP/1.1 request that asks for one score a row.

    Args:
        rows: the rows' inputs; all rows have the same width, and NaN is a missing value.
        more: further header lines, each with its line end.
    """
    count, width = len(rows), len(rows[0])
    size = count * width * 4
    header = (
        f'{{"inputs":[{{"name":"{INPUT}","shape":[{count},{width}],"datatype":"FP32",'
        f'"parameters":{{"binary_data_size":{size}}}}}],'
        f'"outputs":[{{"name":"{OUTPUT}","parameters":{{"binary_data":true}}}}]}}'
    ).encode()
    head = (
        f"POST /v2/models/{service}/infer HTTP/1.1\r\nHost: {authority}\r\n"
        f"Authorization: Bearer {token}\r\n{more}Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(header) + size}\r\n\r\n"
    ).encode()
    return b"".join((head, header, _packed([value for row in rows for value in row])))


def reply_bytes(numbers: int) -> int:
    """Most bytes of an answer with this many numbers, headers included."""
    return min(REPLY_BYTES, REPLY_HEAD_BYTES + REPLY_NUMBER_BYTES * numbers)


def scores(reply: Reply, count: int) -> list[float]:
    """The scores in an answer, row by row; `count` is the number of rows, or of rows times classes.

    Raises:
        PredictionFailed: with `unavailable` for any status but 200 and 400; with `invalid_output`
            for status 400, and for an answer that is not exactly `count` numbers. A number may be
            NaN.
    """
    check_status(reply)
    try:
        values = _values(reply)
    except (msgspec.DecodeError, ValueError, struct.error) as error:
        raise PredictionFailed("invalid_output", str(error)) from error
    if len(values) != count:
        raise PredictionFailed("invalid_output", f"{len(values)} scores for {count} rows")
    return values


def check_status(reply: Reply) -> None:
    """Raises PredictionFailed for any status but 200."""
    if reply.status != 200:
        reason: FailureReason = "invalid_output" if reply.status == 400 else "unavailable"
        raise PredictionFailed(reason, f"status {reply.status}: {reply.body[:200]!r}")


def _packed(values: list[float]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}f", *values)
    except OverflowError:  # beyond float32: infinite, as in the training matrix
        return struct.pack(f"<{len(values)}f", *map(_narrow, values))


def _narrow(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > FLOAT32_MAX else value


def _values(reply: Reply) -> list[float]:
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    output = next(
        (o for o in _decoder.decode(reply.body[:length]).outputs if o.name == OUTPUT), None
    )
    if output is None:
        raise ValueError(f"no output named {OUTPUT!r}")
    if output.data is not None:
        return output.data
    raw = reply.body[length : length + (output.parameters.binary_data_size or 0)]
    form = {"FP32": "f", "FP64": "d"}.get(output.datatype)
    if form is None:
        raise ValueError(f"output has datatype {output.datatype}")
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw))
