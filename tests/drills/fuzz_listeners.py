"""`python -m tests.drills.fuzz_listeners`: a running gateway and its predictor, fed over the wire.

Pieces: each OpenAPI document by Schemathesis, bytes that are nearly HTTP, and messages that are
nearly gRPC's. Every answer is one that is declared, no process ends, and the gateway's resident
memory stays below its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import hypothesis
import msgspec
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from tests.drills.attacks.wire import raw
from tests.drills.fuzz_mutations import near

from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import scoring_pb2 as pb
from support.api_cases import DOCUMENTS, made_decision, prepare, schema, sent
from support.ports import free_port
from support.scoring_world import MODEL, ScoringWorld, payment

EXAMPLES: Final = 25
MOST_A_SECOND: Final = 150.0
DECLARED_5XX: Final = frozenset({503, 505, 501})
"""Of the answers to bytes that are nearly HTTP: a version or a coding that is not taken."""
GATEWAY_LIMIT_MIB: Final = 512.0
ACCEPTED_WITHIN_S: Final = 60.0
BUSY: Final = frozenset({429, 503, 504})
WITHOUT_ANSWER: Final = 0
GRPC_FAULTS: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
METHODS: Final = (
    *(f"/mlplatform.scoring.v1.Scoring/{name}" for name in ("Score", "ScoreBatch")),
    *(
        f"/inference.GRPCInferenceService/{name}"
        for name in ("ModelInfer", "ModelMetadata", "ModelReady")
    ),
)


Strategies = list[tuple[str, st.SearchStrategy[Any]]]
Send = Callable[[Any], int | str]
"""Sends one case; returns its status, and raises where that is not declared."""


class Report(msgspec.Struct, kw_only=True):
    """What came of one piece.

    Args:
        undeclared: answers that no document promises, by what they were, with an example.
        deaths: processes that ended.
        statuses: how often each was answered.
    """

    piece: str
    seconds: float
    cases: int
    seed: int
    statuses: dict[str, int]
    undeclared: list[dict[str, str]]
    deaths: list[str]
    gateway_peak_mib: float
    gateway_limit_mib: float = GATEWAY_LIMIT_MIB

    @property
    def ok(self) -> bool:
        return not (self.undeclared or self.deaths) and self.gateway_peak_mib < GATEWAY_LIMIT_MIB


class Piece:
    """What all pieces have in common: the world, the time, what was found.

    Args:
        make: sends one case, which Hypothesis draws; returns the status.
    """

    def __init__(self, name: str, world: ScoringWorld, seconds: float, seed: int) -> None:
        self.name, self.world, self.seed = name, world, seed
        self.end_s = time.monotonic() + seconds
        self.seconds = seconds
        self.statuses: Counter[str] = Counter()
        self.undeclared: dict[str, dict[str, str]] = {}

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end_s

    def run(self, strategies: Strategies, send: Send) -> Report:
        """Seeds one after the other, each over all strategies, until the time is over."""
        began_s, used, pids = time.monotonic(), self.seed, self._alive()
        with _peak(pids["gateway"]) as peak:
            while not self.is_over:
                for what, strategy in _shuffled(strategies, used):
                    if self.is_over:
                        break
                    self._one_seed(what, strategy, send, used)
                used += 1
        after = self._alive()
        return Report(
            piece=self.name,
            seconds=round(time.monotonic() - began_s, 1),
            cases=sum(self.statuses.values()),
            seed=self.seed,
            statuses=dict(sorted(self.statuses.items())),
            undeclared=list(self.undeclared.values()),
            deaths=sorted(pids.keys() - after.keys()),
            gateway_peak_mib=round(peak[0], 1),
        )

    def _one_seed(self, what: str, strategy: st.SearchStrategy[Any], send: Send, seed: int) -> None:
        @hypothesis.seed(seed)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            report_multiple_bugs=False,
        )
        @given(strategy)
        def run(case: Any) -> None:
            if self.is_over:
                return
            began_s = time.monotonic()
            self.statuses[str(send(case))] += 1
            time.sleep(max(0.0, 1 / MOST_A_SECOND - (time.monotonic() - began_s)))

        try:
            run()
        except Unsatisfiable:
            pass  # an operation without parameters can't be called wrongly
        except Exception as error:  # noqa: BLE001 -- what this looks for
            shown = f"{type(error).__name__}: {error}"
            found = {"what": what, "error": shown[:600], "seed": str(seed)}
            self.undeclared.setdefault(f"{what} {shown[:80]}", found)

    def _alive(self) -> dict[str, int]:
        running = {f"predictor {n}": r.process for n, r in self.world.predictors.items()}
        assert self.world._gateway is not None
        running["gateway"] = self.world._gateway
        return {name: p.pid for name, p in running.items() if p.poll() is None}


def _shuffled(strategies: Strategies, seed: int) -> Strategies:
    """In a short time each of them has its turn once in a while."""
    return random.Random(seed).sample(strategies, len(strategies))


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """The most resident memory that a process had at any look, in MiB."""
    found, stopping = [0.0], threading.Event()

    def look() -> None:
        while not stopping.wait(0.2):
            with contextlib.suppress(psutil.Error):
                found[0] = max(found[0], psutil.Process(pid).memory_info().rss / (1 << 20))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        stopping.set()
        watcher.join()


def document(path: str, piece: Piece) -> Report:
    """Requests that a document allows and forbids; each answer is held to it."""
    world = piece.world
    with world.client() as client:
        waiting = _accepted(client)
    decided = made_decision(world)

    def send(case: Any) -> int | str:
        if not prepare(case, waiting, decided):
            return "left out"
        return int(sent(case, world.url, world.headers).status_code)

    operations = [found.ok() for found in schema(path).get_all_operations()]
    strategies = [
        (
            f"{operation.method.upper()} {operation.path}",
            operation.as_strategy(generation_mode=mode),
        )
        for operation in operations
        for mode in GenerationMode
    ]
    return piece.run(strategies, send)


def _accepted(client: httpx.Client) -> str:
    """A decision that is under way; a machine under load refuses a request now and then."""
    deadline = time.monotonic() + ACCEPTED_WITHIN_S
    while (answer := client.post("/score:async", json=payment())).status_code != 202:
        if answer.status_code not in BUSY or time.monotonic() > deadline:
            raise AssertionError(f"score:async answers {answer.status_code}: {answer.text}")
        time.sleep(0.5)
    return str(answer.json()["decision_id"])


def http(piece: Piece) -> Report:
    """Bytes that are nearly requests, to the gateway and to the predictor behind it."""
    world = piece.world
    authorization = world.headers["Authorization"]
    token = world.home.predictor_token.read_text().strip()
    [service] = world.predictors
    predictor = world.predictor_port(world.predictors[service].arm)
    body = msgspec.json.encode(payment())
    score = (
        f"POST /api/v1/models/{MODEL}/score HTTP/1.1\r\nHost: 127.0.0.1:{world.port}\r\n"
        f"Authorization: {authorization}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: k-1\r\ntraceparent: 00-{'a' * 32}-{'b' * 16}-01\r\n"
        f"X-Request-Timeout-Ms: 500\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    chunked = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        '1c\r\n{"inputs":[{"name":"inputs"}]}\r\n0\r\n\r\n'
    ).encode()
    infer = (
        f"POST /v2/models/{service}/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
        'Inference-Header-Content-Length: 13\r\nContent-Length: 13\r\n\r\n{"inputs":[]}'
    ).encode()

    def send(case: tuple[int, bytes]) -> int | str:
        port, data = case
        status = raw(port, data, within_s=0.4).status
        if status >= 500 and status not in DECLARED_5XX:
            raise AssertionError(f"{status} to {data!r}")
        return status

    gateway = st.tuples(st.just(world.port), near([score, chunked]))
    behind = st.tuples(st.just(predictor), near([infer]))
    return piece.run([("bytes to the gateway", gateway), ("bytes to a predictor", behind)], send)


def grpc_messages(piece: Piece) -> Report:
    """Bytes that are nearly messages, to each method of the gateway's gRPC listener."""
    import grpc

    world, port = piece.world, int(os.environ["FUZZ_GRPC_PORT"])
    metadata = (("authorization", world.headers["Authorization"]),)
    fields = {name: pb.FieldValue(number=value) for name, value in (("amount", 40.0),)}
    fields |= {name: pb.FieldValue(integer=7) for name in ("customer_id", "terminal_id")}
    score = pb.ScoreRequest(model=MODEL, fields=fields, event_time_ms=int(time.time() * 1000))
    rows = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(4)])
    messages = (score, pb.ScoreBatchRequest(requests=[score, score]), rows)
    valid = [*(m.SerializeToString() for m in messages), b""]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def send(case: tuple[str, bytes]) -> int | str:
            method, data = case
            try:
                call = channel.unary_unary(method)
                call(data, timeout=2.0, metadata=metadata)
            except grpc.RpcError as error:
                code = str(error.code().name)  # type: ignore[attr-defined]
                if code in GRPC_FAULTS:
                    raise AssertionError(f"{code} to {method} {data!r}") from error
                return code
            return "OK"

        asked = st.tuples(st.sampled_from(METHODS), near(valid))
        return piece.run([("gRPC messages", asked)], send)


PIECES: Final[dict[str, Callable[[Piece], Report]]] = {
    **{f"document {p}": (lambda piece, p=p: document(p, piece)) for p in DOCUMENTS},
    "http": http,
    "grpc": grpc_messages,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.drills.fuzz_listeners", description=__doc__)
    parser.add_argument("--piece", default="", help="pieces whose name contains this")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the world is ended too
    chosen = [name for name in PIECES if options.piece in name]
    port = free_port()
    os.environ["FUZZ_GRPC_PORT"] = str(port)
    reports = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        world = ScoringWorld(Path(folder))
        try:
            world.promote(world.deploy(1))
            world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
            for name in chosen:
                piece = Piece(name, world, options.seconds / len(chosen), options.seed)
                reports.append(PIECES[name](piece))
        finally:
            world.close()
    print(msgspec.json.encode(reports).decode())
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
