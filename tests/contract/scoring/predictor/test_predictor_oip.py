"""A predictor process as its callers see it: Open Inference Protocol v2 over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from mlplatform.model.oip import Reply, infer_request, scores
from mlplatform.runtime.processes.gpus import has_gpu
from support.onnx_bundles import INPUTS, SLOW, sigmoid_bundle
from support.predictor_process import ACCELERATOR, DEADLINE_S, TOKEN, Process, wait

ROWS = [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]]
SCORES = [0.5, 1 / (1 + np.exp(0.5))]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("fast"))
    wait(process.ready)
    yield process
    process.close()


def running_slowly(folder: Path) -> Iterator[Process]:
    process = Process(folder, heaviness=SLOW)
    try:
        wait(process.ready)
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from running_slowly(tmp_path_factory.mktemp("slow"))


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Process]:
    """A slow one that its test may end."""
    yield from running_slowly(tmp_path)


def test_metadata_names_the_bundle_its_inputs_and_its_output(fast: Process) -> None:
    assert fast.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    metadata = fast.client.get(fast.path).json()
    properties = metadata.pop("properties")
    assert metadata == {
        "name": fast.name,
        "versions": [fast.digest],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1]}],
    }
    assert properties["input_names"] == list(INPUTS)
    assert properties["accelerator"] == ACCELERATOR
    assert properties["warm_up_us"]["1"] > 0
    inline = [n for n, us in properties["warm_up_us"].items() if us <= 200]
    assert properties["event_loop_rows"] == max(map(int, inline), default=0)
    assert properties["mode"] == ("event_loop" if inline else "thread")


def test_a_slow_model_says_that_it_runs_in_a_thread(slow: Process) -> None:
    assert slow.client.get(slow.path).json()["properties"]["mode"] == "thread"
    assert slow.metric("mlplatform_predictor_warm_up_seconds{") > 0


def test_an_answer_says_how_long_it_waited_and_was_computed(slow: Process) -> None:
    timing = slow.infer(ROWS).headers["server-timing"]

    queue_ms, compute_ms = (float(part.split("dur=")[1]) for part in timing.split(","))
    assert [part.split(";")[0].strip() for part in timing.split(",")] == ["queue", "compute"]
    assert 0 <= queue_ms < 1000
    assert 0.2 < compute_ms < 5000


def test_the_served_version_may_be_named_and_another_is_404(fast: Process) -> None:
    named = f"{fast.path}/versions/{fast.digest}"

    assert fast.client.get(named).json()["versions"] == [fast.digest]
    assert fast.client.get(f"{named}/ready").status_code == 200
    tensor = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}
    assert fast.client.post(f"{named}/infer", json={"inputs": [tensor]}).status_code == 200
    assert fast.client.get(f"{fast.path}/versions/7/ready").status_code == 404


def test_callers_who_know_no_versions_write_the_models_name(fast: Process) -> None:
    tensor = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}

    answer = fast.client.post("/v2/models/fraud/infer", json={"inputs": [tensor]})

    assert (answer.status_code, answer.json()["model_name"]) == (200, fast.name)
    assert fast.client.get("/v2/models/fraud/ready").json()["name"] == fast.name


def test_a_full_queue_is_503_with_a_time_to_come_back(tmp_path: Path) -> None:
    process = Process(tmp_path, "--queue-limit=1", heaviness=SLOW)
    found: list[httpx.Response] = []
    try:
        wait(process.ready)
        threads = [
            threading.Thread(target=lambda: found.append(process.infer(ROWS))) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert {r.status_code for r in found} == {200, 503}
        assert {r.headers.get("retry-after") for r in found if r.status_code == 503} == {"1"}
        assert process.infer(ROWS).status_code == 200
    finally:
        process.close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"\x00\xff" * 50, {}, id="garbage"),
        pytest.param(b"", {}, id="nothing"),
        pytest.param(b"[]", {}, id="no object"),
        pytest.param(b'{"inputs": [{"name": "inputs"}]}', {}, id="half a tensor"),
        pytest.param(b"[" * 100_000, {}, id="nesting"),
        pytest.param(
            b'{"inputs":[],"parameters":{"a":' + b"[" * 9000 + b"]" * 9000 + b"}}",
            {},
            id="nesting where anything may stand",
        ),
        pytest.param(
            b'{"inputs":[{"name":"inputs","shape":[1000000000000,3],"datatype":"FP32",'
            b'"data":[1]}]}',
            {},
            id="a shape of terabytes",
        ),
        pytest.param(
            b'{"inputs":[{"name":"inputs","shape":[1,3],"datatype":"FP64","data":[1,1,1]}]}',
            {},
            id="another datatype",
        ),
        pytest.param(
            b'{"inputs":[{"name":"inputs","shape":[1,3],"datatype":"FP32","data":[1,1e39,1]}]}',
            {},
            id="a value beyond the datatype",
        ),
        pytest.param(
            b'{"inputs":[{"name":"inputs","shape":[1,3],"datatype":"FP32","data":[1,NaN,1]}]}',
            {},
            id="NaN is no JSON",
        ),
        pytest.param(
            b'{"inputs":[{"name":"inputs","shape":[1,3],"datatype":"FP32",'
            b'"parameters":{"binary_data_size":12}}]}',
            {"Inference-Header-Content-Length": "9" * 5000},
            id="a length of thousands of digits",
        ),
    ],
)
def test_nothing_that_is_sent_is_the_servers_fault(
    fast: Process, body: bytes, headers: dict[str, str]
) -> None:
    response = fast.client.post(f"{fast.path}/infer", content=body, headers=headers)

    assert response.status_code == 400
    assert response.json()["error"]


def test_an_accelerator_that_the_runtime_lacks_is_named_with_what_there_is(tmp_path: Path) -> None:
    from mlplatform.scoring.predictor import providers

    if providers.accelerator_problem("tensorrt") is None:
        pytest.skip("this runtime has every accelerator")
    process = Process(tmp_path, "--accelerator=tensorrt")
    try:
        wait(
            lambda: "TensorrtExecutionProvider" in process.client.get(f"{process.path}/ready").text
        )

        error = process.client.get(f"{process.path}/ready").json()["error"]
        assert "CPUExecutionProvider" in error
        assert process.infer(ROWS).status_code == 503
    finally:
        process.close()


def test_a_predictor_that_may_have_a_gpu_scores_on_the_processor_where_there_is_none(
    tmp_path: Path,
) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    process = Process(tmp_path, "--accelerator=gpu")
    try:
        wait(process.ready)
        assert process.client.get(process.path).json()["properties"]["accelerator"] == "cpu"
        assert process.infer(ROWS).status_code == 200
    finally:
        process.close()


def test_json_rows_get_json_scores(fast: Process) -> None:
    answer = fast.infer(ROWS, id="a").json()

    assert answer["id"] == "a"
    assert answer["model_name"] == fast.name
    assert answer["model_version"] == fast.digest
    assert answer["outputs"][0]["data"] == pytest.approx(SCORES, abs=1e-6)


def test_binary_rows_get_binary_scores_as_the_gateway_sends_and_reads_them(fast: Process) -> None:
    head, _, body = infer_request(fast.name, "localhost", TOKEN, ROWS).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    del headers["Host"]

    response = fast.client.post(f"{fast.path}/infer", content=body, headers=headers)

    reply = Reply(
        response.status_code,
        {key.lower(): value for key, value in response.headers.raw},
        response.content,
    )
    assert scores(reply, len(ROWS)) == pytest.approx(SCORES, abs=1e-6)


def test_a_tensor_for_each_input_is_scored_as_the_matrix_is(fast: Process) -> None:
    columns = [
        {"name": name, "shape": [2, 1], "datatype": "FP64", "data": [row[place] for row in ROWS]}
        for place, name in enumerate(INPUTS)
    ]
    columns[2] |= {"shape": [2], "datatype": "FP32"}

    answer = fast.client.post(f"{fast.path}/infer", json={"inputs": columns[::-1]}).json()
    lacking = fast.client.post(f"{fast.path}/infer", json={"inputs": columns[:2]})

    assert answer["outputs"][0]["data"] == pytest.approx(SCORES, abs=1e-6)
    assert (lacking.status_code, "lack ['night']" in lacking.text) == (400, True)


def test_a_large_batch_is_answered_in_its_order(fast: Process) -> None:
    rows = [[float(i % 7), 0.0, 0.0] for i in range(2000)]

    found = fast.infer(rows).json()["outputs"][0]["data"]

    assert found == pytest.approx([1 / (1 + np.exp(-r[0])) for r in rows], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/other", 404),
        ("/v2/models/other/infer", 404),
        ("/v2/models/", 404),
        ("/v2/models", 404),
        ("/", 404),
    ],
)
def test_what_is_not_here_is_404_with_the_protocols_error(
    fast: Process, path: str, status: int
) -> None:
    response = fast.client.get(path)

    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_a_wrong_request_is_the_callers_fault_and_says_what_is_wrong(fast: Process) -> None:
    broken = fast.client.post(f"{fast.path}/infer", content=b"{")
    narrow = fast.client.post(
        f"{fast.path}/infer",
        json={"inputs": [{"name": "inputs", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
    )

    assert (broken.status_code, narrow.status_code) == (400, 400)
    assert "shape [1, 2]; the model takes [n, 3]" in narrow.json()["error"]


@pytest.mark.parametrize(("method", "suffix"), [("GET", "/infer"), ("POST", "/ready")])
def test_another_method_is_405(fast: Process, method: str, suffix: str) -> None:
    assert fast.client.request(method, fast.path + suffix).status_code == 405


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_2_mb_is_413(fast: Process, declared: bool) -> None:
    part = b"0" * 65536

    def parts() -> Iterator[bytes]:
        for _ in range(32):
            yield part

    content = part * 32 if declared else parts()
    with httpx.Client(base_url=fast.client.base_url, headers=fast.client.headers) as client:
        try:
            status = client.post(f"{fast.path}/infer", content=content).status_code
        except httpx.WriteError:
            status = 413  # the connection was closed while the rest was being sent
    assert status == 413
    assert fast.ready()


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}]
)
def test_only_liveness_is_open_to_all(fast: Process, header: dict[str, str]) -> None:
    base = str(fast.client.base_url)

    assert httpx.get(f"{base}/v2/health/live", headers=header).status_code == 200
    for path in ("/v2", "/v2/health/ready", "/metrics", fast.path, f"{fast.path}/ready"):
        assert httpx.get(base + path, headers=header).status_code == 401
    assert httpx.post(f"{base}{fast.path}/infer", headers=header).status_code == 401


def test_metrics_count_requests_errors_and_rows(fast: Process) -> None:
    rest = f'{{protocol="rest",service="{fast.name}"'
    service = f'{{service="{fast.name}"'
    before = [
        fast.metric(f"mlplatform_predictor_requests_total{rest}"),
        fast.metric(f"mlplatform_predictor_errors_total{rest}"),
        fast.metric(f"mlplatform_predictor_batch_rows_sum{service}"),
        fast.metric(f"mlplatform_predictor_latency_seconds_count{rest}"),
    ]

    fast.infer(ROWS)
    fast.client.post(f"{fast.path}/infer", content=b"{")

    after = [
        fast.metric(f"mlplatform_predictor_requests_total{rest}"),
        fast.metric(f"mlplatform_predictor_errors_total{rest}"),
        fast.metric(f"mlplatform_predictor_batch_rows_sum{service}"),
        fast.metric(f"mlplatform_predictor_latency_seconds_count{rest}"),
    ]
    assert np.subtract(after, before).tolist() == [2, 1, 2, 1]
    assert 'le="0.0001"' in fast.client.get("/metrics").text


def test_it_says_why_it_is_never_ready_and_lives_on(tmp_path: Path) -> None:
    process = Process(tmp_path, shift=0.1)
    try:
        wait(lambda: "golden row" in process.client.get(f"{process.path}/ready").text)

        assert not process.ready()
        assert process.infer(ROWS).status_code == 503
        assert process.client.get("/v2/health/ready").status_code == 503
        assert process.client.get("/v2/health/live").status_code == 200
    finally:
        process.close()


def test_another_bundle_of_the_same_first_digits_is_not_served(tmp_path: Path) -> None:
    """Who writes where bundles lie may put a whole bundle there, whose files fit each other."""
    own = sigmoid_bundle(tmp_path / "own")
    wanted = own[:8] + "0" * 56
    process = Process(tmp_path, f"--digest={wanted}", f"--termination-log={tmp_path / 'why'}")
    try:
        assert process.popen.wait(timeout=30) == 1
        assert process.digest == own, "the name fits"
        told = (tmp_path / "why").read_text()
        assert f"is for bundle {wanted}, and {tmp_path / 'bundle'} has {own}" in told
    finally:
        process.close()


def test_a_slow_model_leaves_the_health_checks_live(slow: Process) -> None:
    asked = [threading.Thread(target=slow.infer, args=(ROWS,)) for _ in range(8)]
    for thread in asked:
        thread.start()
    times = []
    while any(thread.is_alive() for thread in asked):
        start = time.monotonic()
        assert slow.client.get("/v2/health/live").status_code == 200
        times.append(time.monotonic() - start)
    for thread in asked:
        thread.join()

    assert np.median(times) < 0.05


def test_sigterm_loses_no_request_and_withdraws_readiness_first(leaving: Process) -> None:
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        with httpx.Client(
            base_url=leaving.client.base_url, headers=leaving.client.headers, timeout=DEADLINE_S
        ) as client:
            tensor = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}
            while not stopped.is_set():
                response = client.post(f"{leaving.path}/infer", json={"inputs": [tensor]})
                statuses.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait(lambda: len(statuses) >= 8)
    leaving.popen.send_signal(signal.SIGTERM)
    wait(lambda: not leaving.ready())
    answered_before = len(statuses)
    wait(lambda: len(statuses) > answered_before)  # still takes requests while callers turn away
    stopped.set()
    for thread in threads:
        thread.join()

    assert set(statuses) == {200}
    assert leaving.popen.wait(DEADLINE_S) == 0


def test_it_finds_its_former_port_again(tmp_path: Path) -> None:
    first = Process(tmp_path)
    address = json.loads(first.address.read_text())
    os.kill(first.popen.pid, signal.SIGKILL)
    first.close()

    first.address.write_text(json.dumps(address))
    with first.log.open("ab") as log:
        argv = [os.fsdecode(a) for a in first.popen.args]  # type: ignore[union-attr]
        again = subprocess.Popen(argv, stderr=log)
    try:
        wait(lambda: json.loads(first.address.read_text())["pid"] == again.pid)
        assert json.loads(first.address.read_text())["port"] == address["port"]
    finally:
        again.kill()
        again.wait()
