"""A predictor process as its gRPC callers see it: the Open Inference Protocol's service."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.scoring.protos import open_inference_pb2 as pb
from support.onnx_bundles import INPUTS, SLOW
from support.predictor_process import DEADLINE_S, TOKEN, Process, wait

ROWS = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]], dtype=np.float32)
SCORES = [0.5, 1 / (1 + np.exp(0.5))]
METADATA = (("authorization", f"Bearer {TOKEN}"),)
CODE = grpc.StatusCode


class Stub:
    """A method for each of the service's, as a generated stub has them."""

    def __init__(self, channel: grpc.Channel) -> None:
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        for method in service.methods:
            call = channel.unary_unary(
                f"/{service.full_name}/{method.name}",
                request_serializer=getattr(pb, method.input_type.name).SerializeToString,
                response_deserializer=getattr(pb, method.output_type.name).FromString,
            )
            setattr(self, method.name, call)


class Caller:
    """Calls with the token in every one."""

    def __init__(self, process: Process) -> None:
        self.channel = grpc.insecure_channel(process.grpc_url)
        self.stub: Any = Stub(self.channel)
        self.name = process.name

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        answer = self.stub.ModelInfer(request, metadata=METADATA, timeout=DEADLINE_S)
        assert isinstance(answer, pb.ModelInferResponse)
        return answer

    def bytes(self, method: str, request: bytes) -> bytes:
        call = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        answer = call(request, metadata=METADATA, timeout=DEADLINE_S)
        assert isinstance(answer, bytes)
        return answer


def infer_request(name: str, rows: Any = ROWS, *, raw: bool = True) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=name, id="a")
    tensor = request.inputs.add(name="inputs", datatype="FP32", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return request


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("fast"))
    wait(process.ready)
    yield process
    process.close()


@pytest.fixture(scope="module")
def caller(fast: Process) -> Iterator[Caller]:
    made = Caller(fast)
    yield made
    made.channel.close()


def test_metadata_names_the_bundle_and_its_tensors(fast: Process, caller: Caller) -> None:
    server = caller.stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=METADATA)
    model = caller.stub.ModelMetadata(pb.ModelMetadataRequest(name=fast.name), metadata=METADATA)

    assert (server.name, server.version) == ("mlplatform-predictor", "2")
    assert (model.name, list(model.versions)) == (fast.name, [fast.digest])
    [rows] = model.inputs
    assert (rows.name, rows.datatype, list(rows.shape)) == ("inputs", "FP32", [-1, 3])
    [score] = model.outputs
    assert (score.name, score.datatype, list(score.shape)) == ("scores", "FP32", [-1])


@pytest.mark.parametrize("raw", [True, False], ids=["raw bytes", "typed contents"])
def test_scores_come_back_as_the_rows_were_sent(fast: Process, caller: Caller, raw: bool) -> None:
    answer = caller.infer(infer_request(fast.name, raw=raw))

    if raw:
        found = np.frombuffer(answer.raw_output_contents[0], dtype="<f4").tolist()
        assert not answer.outputs[0].HasField("contents")
    else:
        found = list(answer.outputs[0].contents.fp32_contents)
        assert not answer.raw_output_contents
    assert found == pytest.approx(SCORES, abs=1e-6)
    assert list(answer.outputs[0].shape) == [2]
    assert (answer.id, answer.model_version) == ("a", fast.digest)
    assert answer.parameters["queue_us"].int64_param >= 0
    assert answer.parameters["compute_us"].int64_param > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda r: r.ClearField("inputs"), "one tensor", id="no tensor"),
        pytest.param(lambda r: setattr(r.inputs[0], "name", "x"), "'x'", id="another tensor"),
        pytest.param(
            lambda r: setattr(r.inputs[0], "datatype", "FP64"), "FP64", id="another datatype"
        ),
        pytest.param(lambda r: r.inputs[0].shape.append(1), "shape", id="another rank"),
        pytest.param(
            lambda r: r.inputs[0].shape.__setitem__(0, 2**62), "needs", id="a shape of exabytes"
        ),
        pytest.param(
            lambda r: r.inputs[0].shape.__setitem__(0, -1), "shape", id="a negative shape"
        ),
        pytest.param(
            lambda r: r.raw_input_contents.append(b""), "raw_input_contents", id="two parts"
        ),
        pytest.param(
            lambda r: r.raw_input_contents.__setitem__(0, b"abc"), "parts of", id="half a value"
        ),
        pytest.param(
            lambda r: r.inputs[0].contents.fp32_contents.append(1), "both", id="values twice"
        ),
        pytest.param(lambda r: r.outputs.add(name="y"), "'y'", id="another output"),
    ],
)
def test_a_wrong_request_is_invalid_argument_and_says_what_is_wrong(
    fast: Process, caller: Caller, change: Callable[[pb.ModelInferRequest], object], says: str
) -> None:
    request = infer_request(fast.name)
    change(request)

    with pytest.raises(grpc.RpcError) as failure:
        caller.infer(request)

    assert failure.value.code() is CODE.INVALID_ARGUMENT
    assert says in failure.value.details()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(garbage=st.binary(max_size=200))
def test_bytes_of_any_kind_are_never_the_servers_fault(caller: Caller, garbage: bytes) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        caller.bytes("ModelInfer", garbage)

    assert failure.value.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_a_tensor_for_each_input_is_scored_as_the_matrix_is(
    fast: Process, caller: Caller, raw: bool
) -> None:
    request = pb.ModelInferRequest(model_name=fast.name)
    for name, column in zip(INPUTS, ROWS.astype("<f8").T, strict=True):
        tensor = request.inputs.add(name=name, datatype="FP64", shape=[2])
        if raw:
            request.raw_input_contents.append(column.tobytes())
        else:
            tensor.contents.fp64_contents.extend(column.tolist())

    answer = caller.infer(request)

    found = answer.raw_output_contents[0] if raw else answer.outputs[0].contents.fp32_contents
    scores = np.frombuffer(found, "<f4") if raw else found
    assert list(scores) == pytest.approx(SCORES, abs=1e-6)
    del request.inputs[2]
    with pytest.raises(grpc.RpcError) as refusal:
        caller.infer(request)
    assert refusal.value.code() == CODE.INVALID_ARGUMENT


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_nan_and_infinity_get_an_answer(fast: Process, caller: Caller, values: list[float]) -> None:
    rows = np.array([values], dtype=np.float32)

    answer = caller.infer(infer_request(fast.name, rows))

    assert len(answer.raw_output_contents[0]) == 4


def test_another_model_and_another_version_are_not_found(fast: Process, caller: Caller) -> None:
    for request in (
        pb.ModelReadyRequest(name="other"),
        pb.ModelReadyRequest(name=fast.name, version="7"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            caller.stub.ModelReady(request, metadata=METADATA)
        assert failure.value.code() is CODE.NOT_FOUND
    named = pb.ModelReadyRequest(name=fast.name, version=fast.digest)
    assert caller.stub.ModelReady(named, metadata=METADATA).ready


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_only_liveness_is_open_to_all(
    fast: Process, caller: Caller, metadata: tuple[tuple[str, str], ...]
) -> None:
    assert caller.stub.ServerLive(pb.ServerLiveRequest(), metadata=metadata).live
    stub = caller.stub
    for call, request in (
        (stub.ServerReady, pb.ServerReadyRequest()),
        (stub.ModelReady, pb.ModelReadyRequest(name=fast.name)),
        (stub.ServerMetadata, pb.ServerMetadataRequest()),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name=fast.name)),
        (stub.ModelInfer, infer_request(fast.name)),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            call(request, metadata=metadata)
        assert failure.value.code() is CODE.UNAUTHENTICATED


def test_a_message_of_2_mb_is_refused_and_the_predictor_lives_on(
    fast: Process, caller: Caller
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        caller.bytes("ModelInfer", b"0" * 2 * 1024 * 1024)

    assert failure.value.code() is CODE.RESOURCE_EXHAUSTED
    assert fast.ready()


def test_metrics_tell_grpc_from_rest(fast: Process, caller: Caller) -> None:
    def counts() -> list[float]:
        own = f'{{protocol="grpc",service="{fast.name}"'
        return [
            fast.metric(f"mlplatform_predictor_{name}{own}")
            for name in ("requests_total", "errors_total", "latency_seconds_count")
        ]

    before = counts()
    caller.infer(infer_request(fast.name))
    with pytest.raises(grpc.RpcError):
        caller.infer(infer_request("other"))

    assert np.subtract(counts(), before).tolist() == [2, 1, 1]


def test_before_it_is_ready_it_is_live_and_says_why(tmp_path: Path) -> None:
    process = Process(tmp_path, shift=0.1)
    caller = Caller(process)
    try:
        wait(lambda: "golden row" in process.client.get(f"{process.path}/ready").text)

        assert caller.stub.ServerLive(pb.ServerLiveRequest()).live
        assert not caller.stub.ServerReady(pb.ServerReadyRequest(), metadata=METADATA).ready
        with pytest.raises(grpc.RpcError) as failure:
            caller.infer(infer_request(process.name))
        assert failure.value.code() is CODE.UNAVAILABLE
        assert "golden row" in failure.value.details()
    finally:
        caller.channel.close()
        process.close()


def test_a_full_queue_is_resource_exhausted_with_a_time_to_come_back(tmp_path: Path) -> None:
    process = Process(tmp_path, "--queue-limit=1", heaviness=SLOW)
    caller = Caller(process)
    refusals: list[Any] = []

    def ask() -> None:
        try:
            caller.infer(infer_request(process.name))
        except grpc.RpcError as error:
            refusals.append(error)

    try:
        wait(process.ready)
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert {error.code() for error in refusals} == {CODE.RESOURCE_EXHAUSTED}
        assert all(("retry-after", "1") in tuple(e.trailing_metadata()) for e in refusals)
        assert len(refusals) < 16
    finally:
        caller.channel.close()
        process.close()


def test_sigterm_loses_no_call_and_withdraws_readiness_first(tmp_path: Path) -> None:
    process = Process(tmp_path, heaviness=SLOW)
    wait(process.ready)
    answered: list[int] = []
    failures: list[str] = []
    stopped = threading.Event()

    def ask() -> None:
        caller = Caller(process)
        while not stopped.is_set():
            try:
                answered.append(len(caller.infer(infer_request(process.name)).outputs))
            except grpc.RpcError as error:
                failures.append(str(error))
        caller.channel.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait(lambda: len(answered) >= 8)
        process.popen.send_signal(signal.SIGTERM)
        probe = Caller(process)
        ready = pb.ServerReadyRequest()
        wait(lambda: not probe.stub.ServerReady(ready, metadata=METADATA).ready)
        answered_before = len(answered)
        wait(lambda: len(answered) > answered_before)
        stopped.set()
        for thread in threads:
            thread.join()
        probe.channel.close()

        assert failures == []
        assert process.popen.wait(DEADLINE_S) == 0
    finally:
        stopped.set()
        process.close()
