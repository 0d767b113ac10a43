"""`python -m tests.drills.fuzz_parsers --parser NAME`: one parser, fed for a while by Hypothesis.

Whatever a parser does not refuse by an error that it documents is a crash, with the example that
Hypothesis has made as small as it can and the seed by which it comes again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.drills.fuzz_mutations import near, near_text, values

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.prepared_record import prepared
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import unsealed_rows
from mlplatform.decisions.replication import messages as replication_messages
from mlplatform.decisions.spill import files
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, ReceivedMessage, TopicSpec
from mlplatform.model import folders, oip, rules
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.observing.page.queries import search as page
from mlplatform.rollouts.serving import local
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime import canonical
from mlplatform.runtime.configuration import settings as settings_module
from mlplatform.runtime.errors import (
    ConfigInvalid,
    InputInvalid,
    NotFound,
    PlatformError,
    Unavailable,
)
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.telemetry import context
from mlplatform.runtime.telemetry.redaction import FieldPolicy
from mlplatform.runtime.telemetry.refusals import FILE, Refusals
from mlplatform.scoring.admission import clients, jwks
from mlplatform.scoring.admission.tokens import IssuerTokens
from mlplatform.scoring.predictor import protocol
from mlplatform.scoring.predictor.protocol import RequestRefused
from mlplatform.scoring.request import accepted_request, decision_ids, payloads
from mlplatform.scoring.worker import messages
from support.inference_tensors import NAMED, SERVER, columns
from support.issuer import LocalIssuer, jwk, rsa_key

EXAMPLES: Final = 400
"""Of one seed; then the time is looked at, and the next seed is taken."""
KEY: Final = b"k" * 32
FRAUD: Final = folders.load_definition("fraud")
FOLDER: Final = folders.model_folder("fraud")
PAYMENT: Final = (
    b'{"customer_id": 7, "terminal_id": 3, "amount": 40.5, "event_time": 1795768617368}',
    b'{"customer_id":7,"terminal_id":3,"amount":1e3,"event_time":"2026-11-27T08:00:00Z"}',
)


SEARCH_FIELDS = (
    *("model", "unit", "from_ms", "to_ms", "outcome", "degraded", "version", "before"),
    "no-field",
)


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser: what it is fed, and by which errors it may refuse it."""

    inputs: st.SearchStrategy[Any]
    parse: Callable[[Any], object]
    refuses_by: tuple[type[Exception], ...] = ()


class Report(msgspec.Struct):
    """What came of one parser.

    Args:
        crashes: error, example and seed of each kind of error, once.
    """

    parser: str
    seconds: float
    cases: int
    seed: int
    peak_mib: float
    crashes: list[dict[str, str]]


def parsers() -> dict[str, Parser]:
    """All of them by name."""
    found = {
        "gateway-score": Parser(
            near(PAYMENT), payloads.Payloads(FRAUD).score, (Problem,)
        ),
        "gateway-batch": Parser(
            near([b'{"requests": [%b, %b]}' % PAYMENT, b'{"requests": []}']), _batch, (Problem,)
        ),
        "gateway-labels": Parser(
            near([b'{"labels": [{"decision_id": "d1", "label": true}]}',
                  b'{"labels": [{"idempotency_key": "k", "label": 0, "event_time": 1}]}']),
            _labels, (Problem,),
        ),
        "gateway-idempotency-key": Parser(
            st.none() | near([b'"k-1"', b"k-1", b"\xff"]), payloads.idempotency_key, (Problem,)
        ),
        "gateway-accepted": Parser(near(_accepted()), _genuine, (Problem,)),
        "gateway-decision-id": Parser(near_text([_decision_id(), ""]), _known),
        "gateway-scores": Parser(_replies(), lambda r: oip.scores(r, 2), (oip.PredictionFailed,)),
        "predictor-request": Parser(
            st.tuples(near(_inferences()), st.none() | near_text(["94", "0", "-1", "9" * 9])),
            lambda pair: protocol.parse(pair[0], pair[1], len(FRAUD.inputs)),
            (RequestRefused,),
        ),
        "predictor-tensors": Parser(
            st.tuples(near(columns()), st.none() | near_text(["216", "0", "-1"])),
            lambda pair: protocol.parse(pair[0], pair[1], 3, NAMED),
            (RequestRefused,),
        ),
        "model-server-scores": Parser(
            _replies(), lambda r: SERVER.scores(r, 2), (oip.PredictionFailed,)
        ),
        "trace-context": Parser(_trace_headers(), context.trace_context),
        "tokens": Parser(near(_tokens()), _token),
        "jwk-sets": Parser(near(_jwk_sets()), jwks.verify_keys, (Unavailable,)),
        "scopes": Parser(near_text(["fraud:score", "*:*"]), clients.parse_scope, (ConfigInvalid,)),
        "client-names": Parser(near_text(["shop"]), clients.check_client, (ConfigInvalid,)),
        "settings": Parser(_environments(), settings_module.load, (ConfigInvalid,)),
        "address-postgres": Parser(
            near_text(["postgresql://u@h:5432/db?sslmode=disable", "postgresql://h/db"]),
            lambda text: addresses.postgres("X", {"X": text}), (ConfigInvalid,),
        ),
        "address-redis": Parser(
            near_text(["redis://h:6379/0", "rediss://u@h:6380/1"]),
            lambda text: addresses.redis("X", {"X": text}), (ConfigInvalid,),
        ),
        "address-kafka": Parser(
            near_text(["h:9092,i:9092", "kafka+ssl://u@h:9093,i:9093"]),
            lambda text: addresses.kafka("X", {"X": text}), (ConfigInvalid,),
        ),
        "model-yaml": Parser(
            near_text([(FOLDER / "model.yaml").read_text()]),
            lambda text: folders.parse(text, "model.yaml"), (ConfigInvalid,),
        ),
        "rules-yaml": Parser(
            near_text([(FOLDER / "rules.yaml").read_text()]),
            lambda text: rules.parse_rules(
                text, source="rules", inputs=_names(), decisions=EARLIER.names
            ), (ConfigInvalid,),
        ),
        "reasons-yaml": Parser(
            near_text([(FOLDER / "reasons.yaml").read_text()]),
            lambda text: rules.parse_reasons(text, source="reasons", inputs=_names()),
            (ConfigInvalid,),
        ),
        "spill-frames": Parser(near(_spills()), _spilled),
        "log-chain": Parser(
            st.tuples(st.integers(1, 4), st.sampled_from(_COLUMNS), values()), _log
        ),
        "topic-messages": Parser(near([b'{"a": "eA=="}', b"{}"]), _topic, (PlatformError,)),
        "worker-messages": Parser(
            st.tuples(near(PAYMENT), st.dictionaries(st.sampled_from(
                ["idempotency-key", "accepted", "traceparent"]), near([b"k", b""]), max_size=3)),
            _worker,
        ),
        "replication-confirmations": Parser(
            near([b'{"writer":"g","seq":1,"chain":"%b","again":false}' % (b"A" * 43 + b"=")]),
            lambda data: replication_messages.confirmed(data, "topic"), (InputInvalid,),
        ),
        "manifests": Parser(near([b'{"metadata": {"name": "fraud-v1-abababab"}}']), _manifest,
                            (ConfigInvalid, NotFound)),
        "service-names": Parser(near_text(["fraud-v1-abababab"]), ServiceName.parse),
        "page-search": Parser(
            st.dictionaries(
                st.sampled_from(SEARCH_FIELDS),
                near_text(["fraud", "12", "2026-05-01T10:00", "review", "1.2.gateway-0", "true"]),
            ),
            page.query, (InputInvalid,),
        ),
        "refusals-file": Parser(
            near([b'{"wall_ms":1,"door":"a","who":"b","asked":"c","why":"d"}\n']), _refusals
        ),
        "redaction": Parser(
            near([*PAYMENT, b"[" * 400 + b"]" * 400, b'{"a": %b}' % (b"9" * 5000)]),
            lambda data: FieldPolicy(["amount"]).applied(f"amount=40.5 {data!r}", data),
        ),
        "canonical-json": Parser(values(), _canonical, (ValueError, TypeError, InputInvalid)),
    }  # fmt: skip
    return found


def fuzz(name: str, seconds: float, seed: int) -> Report:
    """Seeds one after the other, until the time is over."""
    parser = parsers()[name]
    crashes: dict[str, dict[str, str]] = {}
    cases, used, began_s = 0, seed, time.monotonic()
    while time.monotonic() - began_s < seconds:
        made, crash = _one_seed(parser, used)
        cases += made
        if crash is not None:
            crashes.setdefault(crash["error"].split(":")[0], crash | {"seed": str(used)})
        used += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    taken = time.monotonic() - began_s
    return Report(name, round(taken, 1), cases, seed, round(peak, 1), list(crashes.values()))


def _one_seed(parser: Parser, seed: int) -> tuple[int, dict[str, str] | None]:
    made, last = 0, [b""]

    @hypothesis.seed(seed)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @given(parser.inputs)
    def run(data: Any) -> None:
        nonlocal made
        made += 1
        last[0] = data
        with contextlib.suppress(*parser.refuses_by):
            parser.parse(data)

    try:
        run()
    except Exception as error:  # noqa: BLE001 -- what this looks for
        shown = f"{type(error).__name__}: {str(error)[:200]}"
        return made, {"error": shown, "example": repr(last[0])[:400]}
    return made, None


def _batch(body: bytes) -> None:
    for item in payloads.decoded_batch(body).requests:
        payloads.Payloads(FRAUD).batch_item(bytes(item))


def _labels(body: bytes) -> None:
    decoder = msgspec.json.Decoder(payloads.LabelItem)
    for item in payloads.decoded_labels(body).labels:
        found = payloads.decoded_once(decoder, bytes(item))
        if found.event_time is not None:
            payloads.epoch_ms(found.event_time)


def _accepted() -> list[bytes]:
    one = accepted_request.AcceptedRequest(
        decision_id="d", client="shop", event_ms=1, request={"amount": 1.0}, trace_id=None
    )
    return [
        msgspec.json.encode(accepted_request.sealed("fraud", one, KEY)),
        msgspec.json.encode(one),
    ]


def _genuine(data: bytes) -> None:
    one = payloads.decoded(msgspec.json.Decoder(accepted_request.AcceptedRequest), data)
    if (
        accepted_request.is_genuine("fraud", one, KEY)
        and msgspec.json.encode(one) != _accepted()[0]
    ):
        raise AssertionError("a forged request is genuine")


def _decision_id() -> str:
    return decision_ids.owned_decision_id("fraud", "shop", 1_795_768_617_368, KEY)


def _known(text: str) -> None:
    for model in ("fraud", "other"):
        known = decision_ids.is_known(model, text, KEY)
        owned = decision_ids.is_owned(model, "shop", text, KEY)
        if known or owned:
            decision_ids.made_ms(text)


def _replies() -> st.SearchStrategy[oip.Reply]:
    head = (b'{"outputs":[{"name":"scores","datatype":"FP32","shape":[2],'
            b'"parameters":{"binary_data_size":8}}]}')  # fmt: skip
    text = b'{"outputs":[{"name":"scores","datatype":"FP32","shape":[2],"data":[0.1,0.2]}]}'
    length = near([str(len(head)).encode(), b"0", b"-1"])
    headers = st.dictionaries(st.just(oip.HEADER_LENGTH), length)
    statuses = st.sampled_from([200, 200, 200, 400, 503])
    return st.builds(oip.Reply, statuses, headers, near([head + bytes(8), text]))


def _inferences() -> list[bytes]:
    width = len(FRAUD.inputs)
    head = (
        f'{{"inputs":[{{"name":"inputs","shape":[2,{width}],"datatype":"FP32",'
        f'"parameters":{{"binary_data_size":{8 * width}}}}}]}}'
    ).encode()
    rows = str([[0.5] * width] * 2)
    text = f'{{"inputs":[{{"name":"inputs","shape":[2,{width}],"datatype":"FP32","data":{rows}}}]}}'
    return [head + bytes(8 * width), text.encode()]


def _trace_headers() -> st.SearchStrategy[dict[bytes, bytes]]:
    parent = f"00-{'a' * 32}-{'b' * 16}-01".encode()
    names = st.sampled_from([b"traceparent", b"tracestate", b"baggage"])
    return st.dictionaries(names, near([parent, b"vendor=1,other=2", b"userId=1;p=2"]), max_size=3)


_ISSUER: Final = LocalIssuer("http://127.0.0.1:1", [jwk("one", rsa_key("one"))])


class _Keys:
    is_fresh = True

    def __init__(self) -> None:
        document = json.dumps({"keys": _ISSUER.keys}).encode()
        self.current = jwks.verify_keys(document)

    def want(self) -> None:
        pass


_TOKENS: Final = IssuerTokens(_ISSUER.settings, _Keys(), lambda why: None)  # type: ignore[arg-type]


def _tokens() -> list[bytes]:
    return [
        _ISSUER.token(),
        _ISSUER.token(typ=None),
        _ISSUER.token(scope=["fraud:score"]),
        b"a.b.c",
    ]


def _token(data: bytes) -> None:
    try:
        found = _TOKENS.client(data, data)
    except Problem:  # keys may have come since: 503
        return
    if found is not None and found.name != "oidc:shop":
        raise AssertionError(f"a forged token proves {found.name}")


def _jwk_sets() -> list[bytes]:
    return [json.dumps({"keys": _ISSUER.keys}).encode(), b'{"keys": [{"kid": "x", "kty": "EC"}]}']


def _environments() -> st.SearchStrategy[dict[str, str]]:
    names = [*settings_module.load({}).environment()]
    valid = ["", "0", "1", "8080", "system", "disk", "/tmp/x", "http://127.0.0.1:1",
             "s3://b/p", "pvc://claim", "redis://h:1/0", "postgresql://u@h/d", "ns",
             "0.5"]  # fmt: skip
    return st.dictionaries(st.sampled_from(names), near_text(valid), max_size=5)


def _names() -> list[str]:
    return [i.name for i in FRAUD.inputs]


def _entry(number: int) -> Entry:
    return Entry(
        Record(
            kind="decision", decision_id=f"d{number}", model="fraud", event_ms=number,
            recorded_ms=number, generation=1, payload={"request": {"amount": 1.0}},
        ),
        None,
    )  # fmt: skip


def _spills() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = files.SpillFile.create(Path(folder) / "g.spill", durable=False)
        parts = [files.framed(prepared(_entry(n))) for n in range(3)]
        file.append(parts, maximum_bytes=1_000_000, durable=False)
        file.close()
        return [next(Path(folder).glob("g*")).read_bytes(), b""]


def _spilled(data: bytes) -> None:
    descriptor = os.memfd_create("spill")
    try:
        os.write(descriptor, data)
        if files.spill_id(descriptor) is not None:
            for frame in files.frames(descriptor):
                files.record_at(descriptor, frame.end)
    finally:
        os.close(descriptor)


_COLUMNS: Final = (
    "payload", "numbers", "shape", "chain", "place", "context", "decision_id", "event_ms",
    "recorded_ms", "score", "label",
)  # fmt: skip


def _log(change: tuple[int, str, Any]) -> None:
    """One value of one record is changed; `verify` has to say so, whatever the value is."""
    seq, column, value = change
    stored = json.dumps(value).encode() if isinstance(value, list | dict) else value
    if isinstance(stored, int) and not -(2**63) <= stored < 2**63:
        stored = str(stored)
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteDecisionLog(Path(folder), segment_rows=(100, 100))
        log.append("g", [_entry(n) for n in range(4)])
        log.close()
        [database] = [p for p in Path(folder).glob("*.db")]
        with contextlib.closing(sqlite3.connect(database)) as db:
            update = f"UPDATE unsealed_records SET {column} = ? WHERE place & 255 = ?"
            old = unsealed_rows(db, "g", after=0, is_lenient=True)
            try:
                db.execute(update, [stored, seq])
                db.commit()
            except (sqlite3.IntegrityError, UnicodeEncodeError):
                return
            new = unsealed_rows(db, "g", after=0, is_lenient=True)
        log = SqliteDecisionLog(Path(folder), segment_rows=(100, 100))
        try:
            if log.verify().ok and repr(old) != repr(new):
                raise AssertionError(f"{column} of record {seq} changed unseen to {new!r}")
        finally:
            log.close()


def _topic(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topics.db"
        topics = LocalTopics(path, [TopicSpec("t", partitions=1)])
        topics.publish([Message("t", b"k", b"v", {})])
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE messages SET headers = ?", [data])
            db.commit()
        with contextlib.closing(topics.subscribe(["t"], "g", "m")) as subscription:
            subscription.consume(10, 0.0)
        topics.close()


def _worker(pair: tuple[bytes, dict[str, bytes]]) -> None:
    body, headers = pair
    received = ReceivedMessage("fraud.requests", 0, 1, b"k", body, headers, 0)
    messages.item_of(received)


def _manifest(data: bytes) -> None:
    from mlplatform.rollouts.serving.manifest import read

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.json"
        path.write_bytes(data)
        local.bundle_folder(read(local.read_manifest(path)).storage_uri, Path(folder))


def _refusals(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(data)
        list(Refusals(Path(folder)).since(0))


def _canonical(value: Any) -> None:
    data = canonical.canonical_json(value)
    if canonical.canonical_json(json.loads(data)) != data:
        raise AssertionError("canonical JSON is not canonical")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.drills.fuzz_parsers", description=__doc__)
    parser.add_argument("--parser", required=True, help="its name, or `list`")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.parser == "list":
        print("\n".join(parsers()))
        return 0
    found = fuzz(options.parser, options.seconds, options.seed)
    print(msgspec.json.encode(found).decode())
    return 1 if found.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
