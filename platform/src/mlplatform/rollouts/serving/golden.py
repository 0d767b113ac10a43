"""Whether a service runs the model of its bundle, asked over the Open Inference Protocol.

The platform's own predictor tests itself before it is ready. Other servers do not, so the code that
manages a service tests them: it compares their tensors, and their scores of golden rows.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mlplatform.model.bundle import Bundle
from mlplatform.model.oip import Codec, MatrixCodec, PredictionFailed
from mlplatform.model.tensors.named_tensors import DATATYPES
from mlplatform.model.tensors.signature import InputTensor, OutputTensor
from mlplatform.rollouts.serving.bounded_reply import reply
from mlplatform.rollouts.serving.named_codec import codec_of
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import MIB

TIMEOUT_S: Final = 2.0
"""Longest time of one call in seconds, from its connection to the end of its answer."""
WITHIN_S: Final = 6.0
"""Longest time in seconds of all calls about one service. A pass waits for them. A check of a
cluster's services waits too, and must be repeated before its statuses are too old
(`local.STALE_MS`)."""
PROBLEM_CHARACTERS: Final = 500
"""Most characters of a server's own words in statuses, logs and pages."""
METADATA_BYTES: Final = MIB
MOST_DIMENSIONS: Final = 8
Row = Sequence[float]
Score = Callable[[Sequence[Row]], list[float]]


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str = ""
    shape: list[int] = []


class _Metadata(msgspec.Struct, frozen=True):
    inputs: list[_Tensor] | None = None
    outputs: list[_Tensor] | None = None


_metadata = msgspec.json.Decoder(_Metadata)


def problem_of(bundle: Bundle, url: str, service: str) -> str:
    """Why a service is not the model of its bundle; empty if it is. Takes at most WITHIN_S.

    Raises:
        Unavailable: the service gave no answer, or an answer without valid scores.
    """
    until_s = time.monotonic() + WITHIN_S
    codec = codec_of(bundle, service)
    if bundle.server is not None:
        name = bundle.server.served_as or service
        if problem := other_signature(bundle, metadata(url, name, until_s)):
            return f"{name} at {url} is another model: {problem[:PROBLEM_CHARACTERS]}"

    def score(rows: Sequence[Row]) -> list[float]:
        if time.monotonic() > until_s:
            raise Unavailable(f"{service} at {url}: golden rows took more than {WITHIN_S:g} s")
        return ask(url, service, rows, codec, until_s)

    return score_differences(bundle, score)


def score_differences(bundle: Bundle, score: Score) -> str:
    """The golden rows whose scores differ from the bundle's, in one batch or one by one, in words;
    empty if none does."""
    tolerance, numbers = bundle.golden.tolerance, max(1, bundle.classes)
    if bundle.server is not None:
        tolerance = max(tolerance, bundle.server.tolerance)
    golden = bundle.golden.scores
    expected = [v for one in golden for v in (one if isinstance(one, tuple) else (one,))]
    rows = [[math.nan if v is None else v for v in row] for row in bundle.golden.rows]
    together = score(rows)
    alone = [value for row in rows for value in score([row])]
    for scored, how in ((together, "in a batch"), (alone, "alone")):
        for place, (found, wanted) in enumerate(zip(scored, expected, strict=True)):
            if not abs(found - wanted) <= tolerance:
                return (
                    f"golden row {place // numbers} scores {found:.6g} {how}; the bundle says "
                    f"{wanted:.6g} (\u00b1{tolerance:g})"
                )
    return ""


def other_signature(bundle: Bundle, found: _Metadata) -> str:
    """How a server's tensors differ from the bundle's signature, in words; empty if they do not.

    Some servers report no tensors; then only the golden rows are compared. Extra outputs are
    allowed.
    """
    signature = bundle.signature
    if signature is None:
        return ""
    if found.inputs:
        known = {tensor.name for tensor in signature.inputs}
        strange = [tensor.name for tensor in found.inputs if tensor.name not in known]
        if strange:
            return f"it takes {', '.join(strange)[:200]!r}, which the signature does not have"
    wanted = [o for o in signature.outputs if o.name == signature.score.output]
    both = (*_differences(signature.inputs, found.inputs), *_differences(wanted, found.outputs))
    return both[0] if both else ""


def ask(
    url: str,
    service: str,
    rows: Sequence[Row],
    codec: Codec | None = None,
    until_s: float = math.inf,
) -> list[float]:
    """The raw scores of a service for these rows, in their order; for classes one score each.

    Args:
        url: address of the form http://host:port.
        codec: codec of the request and the answer; None means that of the platform's own predictor.
        until_s: time of the monotonic clock by which the answer must have arrived. The call waits
            TIMEOUT_S at most in any case.

    Raises:
        Unavailable: the service gave no answer, or an answer without valid scores.
    """
    codec = codec or MatrixCodec(service)
    request = codec.request(urlsplit(url).netloc, "", rows, "Connection: close\r\n")
    try:
        most_bytes = codec.reply_bytes(len(rows))
        found = reply(url, request, _until_s(until_s), most_bytes)
        return codec.scores(found, len(rows))
    except (OSError, http.client.HTTPException, PredictionFailed) as error:
        raise Unavailable(f"{service} at {url}: {_words(error)}") from error


def metadata(url: str, name: str, until_s: float = math.inf) -> _Metadata:
    """A server's description of a model's tensors.

    Args:
        until_s: deadline, as for `ask`.

    Raises:
        Unavailable: the server gave no answer, or does not have the model.
    """
    authority = urlsplit(url).netloc
    request = f"GET /v2/models/{name} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    try:
        found = reply(url, request.encode(), _until_s(until_s), METADATA_BYTES)
        if found.status != 200:
            raise Unavailable(f"{url} has no model {name}: status {found.status}")
        return _metadata.decode(found.body)
    except (OSError, http.client.HTTPException, *NOT_JSON) as error:
        raise Unavailable(f"{url} says nothing of {name}: {_words(error)}") from error


def _until_s(until_s: float) -> float:
    return min(until_s, time.monotonic() + TIMEOUT_S)


def _words(error: Exception) -> str:
    return str(error)[:PROBLEM_CHARACTERS]


def _differences(
    wanted: Sequence[InputTensor | OutputTensor], found: Sequence[_Tensor] | None
) -> Iterator[str]:
    described = {tensor.name: tensor for tensor in found or ()}
    for tensor in wanted if described else ():
        other = described.get(tensor.name)
        if other is None:
            yield f"it has no tensor {tensor.name!r}"
            continue
        if other.datatype not in ("", DATATYPES[tensor.dtype]):
            yield f"{tensor.name!r} is {other.datatype[:20]}, not {DATATYPES[tensor.dtype]}"
        columns = math.prod(size for size in tensor.shape if size != "n")
        rest = other.shape[1:]
        is_known = len(rest) <= MOST_DIMENSIONS and all(size > 0 for size in rest)
        if len(rest) > MOST_DIMENSIONS or (is_known and math.prod(rest) != columns):
            yield f"{tensor.name!r} has shape {other.shape[:8]}, not {list(tensor.shape)}"
