"""`make bench-scoring`: the scoring path beside its peers and the practical limit, in one run.

Core 0 runs the server that is measured; core 1 runs the load and, for the whole path, the
predictor behind it. Figures of one run compare with each other and with nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table
from tests.bench import processes, wrk
from tests.bench.contenders import CONSOLE, LOAD_CORE, ROOT, SERVER_CORE, Bench, Contender
from tests.bench.model import ADVERSE_SHARE, MODEL, fraud_bundle, plain_bundle, trees

from mlplatform.decisions.records.pseudonym import load_or_create_key, pseudonym
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.model.bundle import load_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.routes import Arm
from mlplatform.scoring.protos import open_inference_pb2 as pb
from support.ports import free_port
from support.scoring_world import ScoringWorld

SERVERS = Path(__file__).parent / "servers"
BUILD = ROOT / "build" / "bench"
ENVIRONMENTS = BUILD / "envs"
INPUTS, BODIES, CANDIDATES, CUSTOMERS = 30, 200, 1000, 500
# KServe reads its command line when it is imported. Its switches against logging make it faster.
KSERVE_FLAGS = ["--enable_latency_logging=false", "--configure_logging=false"]
KSERVE_FLAGS += ["--enable_grpc=false", "--enable_docs_url=false"]
PATH_CONNECTIONS = (1, 8, 32, 64, 128)
LIMIT_CONNECTIONS = (32, 64)
TRACED_CONNECTIONS = 4
TRACED = {"none": "0", "default": "0.01", "all": "1", "none_again": "0"}
"""Figure → share of the requests that nothing speaks for and that have spans all the same."""


def environment(name: str) -> Path:
    """The Python of a contender's environment, installed from its lock if it is not there yet."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        CONSOLE.print(f"installing the environment of {name} (once)")
        lock = ROOT / "requirements" / f"bench-{name}.txt"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(lock)], check=True)
        (folder / ".installed").touch()
    return python


def predictors(bench: Bench, work: Path) -> None:
    """The predictor beside other servers of the same model: one row of 30 inputs."""
    content, x = trees(INPUTS)
    onnx = work / "bench.onnx"
    onnx.write_bytes(content)
    rows = x[:BODIES].round(4).tolist()
    infer = [_oip_json(row) for row in rows]
    shared = {"BENCH_ONNX": str(onnx), "OMP_NUM_THREADS": "1"}

    def served(
        name: str,
        command: list[str],
        path: str,
        bodies: list[bytes],
        port: int | None = None,
        **env: str,
    ) -> None:
        port = port or free_port()
        command = [part.replace("{port}", str(port)) for part in command]
        variables = {**shared, "BENCH_PORT": str(port), **env}
        log = work / f"{name}.log"
        with processes.started(command, variables, port, SERVER_CORE, log) as pid:
            url = f"http://127.0.0.1:{port}{path}"
            bench.measure(name, Contender(url, bodies, pids={"server": pid}))

    path = "/v2/models/bench/infer"
    served("limit", [sys.executable, str(SERVERS / "limit.py"), "{port}"], path, infer)
    with own_predictor(content, x, work) as (contender, grpc):
        bench.measure("predictor_json", contender)
        contender.bodies, contender.headers = _oip_binary(rows, contender.headers)
        bench.measure("predictor_binary", contender)
        contender.bodies, contender.grpc = [_oip_grpc(row) for row in rows], grpc
        bench.measure("predictor_grpc", contender)
    fastapi = str(environment("fastapi"))
    served("fastapi", [fastapi, str(SERVERS / "fastapi_app.py"), "{port}"], path, infer)
    kserve = str(environment("kserve"))
    command = [kserve, str(SERVERS / "kserve_model.py"), *KSERVE_FLAGS]
    served("kserve_modelserver", command, path, infer)
    mlserver(served, work, infer)
    bento = environment("bentoml").parent / "bentoml"
    served(
        "bentoml",
        [str(bento), "serve", "bento_service:Bench", "--port", "{port}", "--host", "127.0.0.1"],
        "/infer",
        [json.dumps({"rows": [row]}).encode() for row in rows],
        PYTHONPATH=str(SERVERS),
        BENTOML_DO_NOT_TRACK="True",
        BENTOML_HOME=str(work / "bento"),
    )


def mlserver(served: Any, work: Path, infer: list[bytes]) -> None:
    """MLServer reads its settings from a folder."""
    folder = work / "mlserver"
    folder.mkdir()
    binary = environment("mlserver").parent / "mlserver"
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
        "use_structured_logging": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "mlserver_model.OnnxModel"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(binary), "start", str(folder)]
    served("mlserver", command, "/v2/models/bench/infer", infer, port=port, PYTHONPATH=str(SERVERS))


@contextmanager
def own_predictor(content: bytes, x: Any, work: Path) -> Iterator[tuple[Contender, dict[str, str]]]:
    """This platform's predictor, with its token, as the supervisor starts it; and its gRPC."""
    bundle = work / "bundle"
    plain_bundle(content, x, bundle)
    token = work / "token"
    token.write_text("bench-token")
    port = free_port()
    command = [sys.executable, "-m", "mlplatform.process", "predictor", "--model-dir", str(bundle)]
    grpc_port = free_port()
    command += ["--model-name", "bench", "--port", str(port), "--token-file", str(token)]
    command += ["--grpc-port", str(grpc_port)]
    variables = {"PYTHONPATH": str(ROOT / "platform" / "src")}
    log = work / "predictor.log"
    with processes.started(command, variables, port, SERVER_CORE, log) as pid:
        contender = Contender(
            f"http://127.0.0.1:{port}/v2/models/bench/infer",
            [_oip_json(row) for row in x[:BODIES].round(4).tolist()],
            {"Content-Type": "application/json", "Authorization": "Bearer bench-token"},
            pids={"server": pid},
        )
        yield contender, {"address": f"127.0.0.1:{grpc_port}", "token": "bench-token"}


@dataclass
class OnlinePath:
    """A gateway on a core of its own over one predictor, and the model's rows.

    Args:
        onnx: the model alone.
        x: rows of its inputs.
    """

    world: ScoringWorld
    arm: Arm
    onnx: Path
    x: Any
    contender: Contender

    def again(self, **settings: str) -> Contender:
        """The same with a new gateway process under other settings, and payments of this moment.

        A gateway refuses payments that are older than five minutes.
        """
        assert self.world.stop_gateway() == 0
        self.world.start_gateway(**settings)
        pids = {**self.contender.pids, "gateway": _pinned(self.world)}
        now = {"event_time": int(time.time() * 1000)}
        bodies = [json.dumps({**json.loads(b), **now}).encode() for b in self.contender.bodies]
        return dataclasses.replace(self.contender, bodies=bodies, pids=pids)


@contextmanager
def online_path(work: Path, *, has_adverse: bool = True) -> Iterator[OnlinePath]:
    """Ends with the block.

    Args:
        has_adverse: whether the usual share of the requests is reviewed or declined.
    """
    content, x = trees(len(load_definition(MODEL).inputs))
    onnx = work / "path.onnx"
    onnx.write_bytes(content)
    world = ScoringWorld(work / "world")
    try:
        arm = world.deploy(1, write=lambda folder: fraud_bundle(content, x, folder))
        world.promote(arm)
        world.start_gateway()
        predictor = world.predictors[arm.service].process.pid
        processes.pin(predictor, LOAD_CORE)
        bodies = _payments(world, x)
        path = Contender(
            f"{world.url}/api/v1/models/{MODEL}/score",
            _with_adverse_share(world, bodies) if has_adverse else bodies[:BODIES],
            {"Content-Type": "application/json", **world.headers},
            keyed=True,
            pids={"gateway": _pinned(world), "predictor": predictor},
        )
        yield OnlinePath(world, arm, onnx, x, path)
    finally:
        world.close()


def _pinned(world: ScoringWorld) -> int:
    assert world._gateway is not None
    processes.pin(world._gateway.pid, SERVER_CORE)
    return world._gateway.pid


def traced(bench: Bench, online: OnlinePath) -> None:
    """The path by the share of requests that have spans, none of them slow: few ask at a time.

    The first again at the end: what the two differ by is the machine's.
    """
    for name, share in TRACED.items():
        path = online.again(MLPLATFORM_TRACE_SHARE=share)
        bench.measure(f"path_traced_{name}", path, TRACED_CONNECTIONS)


def whole_path(bench: Bench, work: Path) -> dict[str, Any]:
    """One online score with all that belongs to it, and the stock chain doing its own."""
    open_loop: dict[str, Any] = {}
    environment("kserve")  # while it is installed, payments would grow too old
    with online_path(work) as online:
        path, x, onnx = online.contender, online.x, online.onnx
        for connections in PATH_CONNECTIONS:
            bench.measure(f"path_c{connections}", path, connections)
        best = max(bench.figures[f"path_c{c}"]["rps"] for c in PATH_CONNECTIONS)
        open_loop["path"] = bench.open_loops("path", path, best)
        port = free_port()
        command = [sys.executable, str(SERVERS / "limit.py"), str(port)]
        env = {"BENCH_ONNX": str(onnx)}
        with processes.started(command, env, port, SERVER_CORE, work / "limit.log") as pid:
            rows = [_oip_json(row) for row in x[:BODIES].round(4).tolist()]
            limit = Contender(f"http://127.0.0.1:{port}/", rows, pids={"server": pid})
            for connections in LIMIT_CONNECTIONS:
                bench.measure(f"limit_of_path_model_c{connections}", limit, connections)
            same = open_loop["path"]["rate"]
            open_loop["limit"] = bench.open_loop("limit", limit, same, bench.seconds * 2)
        stock_chain(bench, work, online.world, onnx, path.bodies, online.arm.bundle)
        traced(bench, online)
    return open_loop


def stock_chain(
    bench: Bench, work: Path, world: ScoringWorld, onnx: Path, bodies: list[bytes], bundle: str
) -> None:
    """KServe's transformer with Feast's SDK on core 0; its predictor and the load on core 1."""
    python = str(environment("kserve"))
    repo = _feast_repo(work, world)
    thresholds = load_bundle(world.home.bundles / bundle).thresholds
    views = load_views(model_folder(MODEL))
    features = [f"{view.name}:{name}" for view in views for name in view.feature_names]
    ratios = [i.to for i in load_definition(MODEL).inputs if i.kind == "ratio" and i.to]
    shared = {"OMP_NUM_THREADS": "1", "BENCH_ONNX": str(onnx), "FEAST_USAGE": "False"}
    behind, front = free_port(), free_port()
    with ExitStack() as stack:
        predictor = stack.enter_context(
            processes.started(
                [python, str(SERVERS / "kserve_model.py"), *KSERVE_FLAGS],
                {**shared, "BENCH_PORT": str(behind)},
                behind,
                LOAD_CORE,
                work / "kserve-predictor.log",
            )
        )
        transformer = stack.enter_context(
            processes.started(
                [
                    python,
                    str(SERVERS / "transformer.py"),
                    *KSERVE_FLAGS,
                    "--predictor_protocol=v2",
                    f"--predictor_host=127.0.0.1:{behind}",
                ],
                {
                    **shared,
                    "BENCH_PORT": str(front),
                    "BENCH_FEAST": str(repo),
                    "BENCH_FEATURES": ",".join(features),
                    "BENCH_RATIOS": ",".join(ratios),
                    "BENCH_THRESHOLDS": json.dumps([thresholds["review"], thresholds["decline"]]),
                    "BENCH_LOG": str(work / "decisions.jsonl"),
                },
                front,
                SERVER_CORE,
                work / "transformer.log",
            )
        )
        chain = Contender(
            f"http://127.0.0.1:{front}/v1/models/bench:predict",
            bodies,
            pids={"transformer": transformer, "predictor": predictor},
        )
        for connections in (1, 8, 32):
            bench.measure(f"stock_chain_c{connections}", chain, connections)


def _payments(world: ScoringWorld, x: Any) -> list[bytes]:
    """Request bodies of customers whose features are online, under both kinds of key."""
    rng = np.random.default_rng(11)
    now_ms = int(time.time() * 1000)
    views = load_views(model_folder(MODEL))
    online = FeastSqlite(world.home.online_db, project_name(MODEL), views)
    key = load_or_create_key(world.home.pseudonym_key)
    stamp = pa.array([(now_ms - 3_600_000) * 1000] * (2 * CUSTOMERS), pa.timestamp("us"))
    for view in views:
        plain = list(range(CUSTOMERS))
        ids = [*plain, *(pseudonym(number, key) for number in plain)]
        columns = {
            name: pa.array(np.tile(rng.choice(x[:, 1], CUSTOMERS).astype(float), 2))
            for name in view.feature_names
        }
        table = pa.table(
            {view.join_key: pa.array(ids, pa.int64()), **columns}
            | {"event_timestamp": stamp, "created": stamp}
        )
        online.write(view.name, table)
    online.close()
    return [
        json.dumps(
            {
                "customer_id": int(rng.integers(CUSTOMERS)),
                "terminal_id": int(rng.integers(CUSTOMERS)),
                "amount": round(float(abs(x[i, 0])) + 0.01, 2),
                "event_time": now_ms,
            }
        ).encode()
        for i in range(CANDIDATES)
    ]


def _with_adverse_share(world: ScoringWorld, candidates: list[bytes]) -> list[bytes]:
    """As many bodies as are sent, of which the wanted share is reviewed or declined."""
    with world.client() as client:
        decisions = [
            client.post(
                "/score", content=body, headers={"Content-Type": "application/json"}
            ).json()["decision"]
            for body in candidates
        ]
    adverse = [b for b, d in zip(candidates, decisions, strict=True) if d != "approve"]
    approved = [b for b, d in zip(candidates, decisions, strict=True) if d == "approve"]
    wanted = round(BODIES * ADVERSE_SHARE)
    if len(adverse) < wanted or len(approved) < BODIES - wanted:
        raise SystemExit(f"{len(adverse)} of {len(candidates)} payments are adverse")
    return [*approved[: BODIES - wanted], *adverse[:wanted]]


def _feast_repo(work: Path, world: ScoringWorld) -> Path:
    """A Feast repository over the platform's own online database, for the SDK."""
    repo = work / "feast"
    repo.mkdir()
    script = (
        "import os, sys; from pathlib import Path; from support.feast_sdk import store;"
        f"os.chdir({str(world.home.root)!r}); s = store(Path({str(world.home.root)!r}), {MODEL!r});"
        "c = s.config; print(c.project); print(c.registry.path); print(c.online_store.path)"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform' / 'src'}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
    )
    project, registry, online = done.stdout.split()[-3:]
    root = world.home.root
    (repo / "feature_store.yaml").write_text(
        f"project: {project}\nprovider: local\n"
        f"registry: {{registry_type: file, path: {root / registry}, cache_ttl_seconds: 0}}\n"
        f"online_store: {{type: sqlite, path: {root / online}}}\n"
        "offline_store: {type: file}\nentity_key_serialization_version: 3\n"
    )
    return repo


def _oip_json(row: list[float]) -> bytes:
    tensor = {"name": "inputs", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    return json.dumps({"inputs": [tensor]}).encode()


def _oip_binary(
    rows: list[list[float]], headers: dict[str, str]
) -> tuple[list[bytes], dict[str, str]]:
    size = len(rows[0]) * 4
    tensor = {"name": "inputs", "shape": [1, len(rows[0])], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    bodies = [head + np.array(row, dtype="<f4").tobytes() for row in rows]
    named = {**headers, "Content-Type": "application/octet-stream"}
    return bodies, {**named, "Inference-Header-Content-Length": str(len(head))}


def _oip_grpc(row: list[float]) -> bytes:
    asked = pb.ModelInferRequest(model_name="bench")
    asked.inputs.add(name="inputs", datatype="FP32", shape=[1, len(row)])
    asked.raw_input_contents.append(np.array(row, dtype="<f4").tobytes())
    content: bytes = asked.SerializeToString()
    return content


def ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the goals are stated in; a contender that was not run has no ratio."""

    def best(prefix: str) -> float | None:
        found = [f["rps"] for name, f in figures.items() if name.startswith(prefix)]
        return max(found) if found else None

    wanted = {
        "predictor_vs_limit": ("predictor_json", "limit"),
        "predictor_binary_vs_limit": ("predictor_binary", "limit"),
        "predictor_vs_kserve": ("predictor_json", "kserve_modelserver"),
        "predictor_vs_mlserver": ("predictor_json", "mlserver"),
        "predictor_vs_bentoml": ("predictor_json", "bentoml"),
        "predictor_vs_fastapi": ("predictor_json", "fastapi"),
        "path_vs_limit": ("path_c", "limit_of_path_model_c"),
        "path_vs_stock_chain": ("path_c", "stock_chain_c"),
    }
    found = {}
    for name, (one, other) in wanted.items():
        exact = figures.get(other, {}).get("rps") or best(other)
        ours = figures.get(one, {}).get("rps") or best(one)
        if ours and exact:
            found[name] = round(ours / exact, 3)
    return found


def cost_of_traces(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """CPU of the gateway a request, in microseconds, by the share of requests that have spans."""
    traced = {name: f"path_traced_{name}" for name in TRACED}
    return {
        name: figures[figure]["cpu_us_per_request"]["gateway"]
        for name, figure in traced.items()
        if figure in figures
    }


def table(figures: dict[str, dict[str, Any]]) -> Table:
    shown = Table("contender", "c", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us", "MB")
    for name, f in figures.items():
        cpu = " + ".join(f"{value:.0f}" for value in f["cpu_us_per_request"].values())
        memory = " + ".join(f"{value:.0f}" for value in f["rss_mb"].values())
        cells = [f"{f['rps']:,.0f}", f"{f['p50_ms']:.2f}", f"{f['p99_ms']:.2f}"]
        shown.add_row(name, str(f["connections"]), *cells, f"{f['p999_ms']:.2f}", cpu, memory)
    return shown


def main() -> None:
    """Runs the benchmark, writes build/bench/scoring.json and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measured run")
    parser.add_argument("--only", choices=("predictor", "path", "traces"), help="a part alone")
    options = parser.parse_args()
    wrk.required()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    work = BUILD / f"work-{time.time_ns()}"
    work.mkdir(parents=True)
    bench = Bench(options.seconds, work)
    open_loop: dict[str, Any] = {}
    if options.only in (None, "predictor"):
        CONSOLE.print("predictors: one row of 30 inputs, one core")
        predictors(bench, work)
    if options.only == "traces":
        with online_path(work) as online:
            traced(bench, online)
    if options.only in (None, "path"):
        CONSOLE.print("the whole path: one core for the gateway; predictor and load on the other")
        open_loop = whole_path(bench, work)
    report = {
        "contenders": bench.figures,
        "ratios": ratios(bench.figures),
        "open_loop": open_loop,
        "traced_cpu_us": cost_of_traces(bench.figures),
        "pinning": {"server": SERVER_CORE, "load": LOAD_CORE, "behind the path": LOAD_CORE},
        "model": {"trees": 300, "leaves": 63, "inputs": INPUTS},
        "seconds": options.seconds,
    }
    (BUILD / "scoring.json").write_text(json.dumps(report, indent=1) + "\n")
    CONSOLE.print(table(bench.figures))
    told = {"ratios": report["ratios"], "open loop": open_loop}
    CONSOLE.print(told | {"CPU us by traces": report["traced_cpu_us"]})
    CONSOLE.print(f"written to {BUILD / 'scoring.json'}")


if __name__ == "__main__":
    main()
