"""An OIP server in Triton's place: `python triton_place.py --model-repository=... --http-port=...`.

It is not Triton. It takes Triton's arguments, reads a repository as Triton would (one model, its
`config.pbtxt`, one version), and answers what a gateway and a probe ask over HTTP: readiness, and
inference with binary tensors, outputs with a second dimension, no call beyond `max_batch_size`.
It imports only what the predictor's image has, so that a pod can be given this file as its program.
"""

from __future__ import annotations

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime


def field(config: str, name: str) -> str:
    found = re.search(rf'^{name}: "?([^"\n]+)"?$', config, re.MULTILINE)
    if found is None:
        raise SystemExit(f"config.pbtxt has no {name}")
    return found[1]


class Model:
    """The one model of a repository."""

    def __init__(self, repository: Path) -> None:
        [folder] = repository.iterdir()
        config = (folder / "config.pbtxt").read_text()
        self.name = field(config, "name")
        if self.name != folder.name:
            raise SystemExit(f"model {self.name} lies in a folder {folder.name}")
        self.most_rows = int(field(config, "max_batch_size"))
        [version] = [path for path in folder.iterdir() if path.is_dir()]
        file = version / field(config, "default_model_filename")
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def infer(self, request: dict, raw: bytes) -> bytes:
        [asked] = request["inputs"]
        rows = np.frombuffer(raw, np.float32).reshape(asked["shape"])
        if len(rows) > self.most_rows:
            raise ValueError(f"{len(rows)} rows exceed {self.most_rows}")
        [scores] = self.session.run(["scores"], {"inputs": rows})
        return scores.astype(np.float32).tobytes()


def handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ready = ("/v2/health/live", "/v2/health/ready", f"/v2/models/{model.name}/ready")
            self.answer(200 if self.path in ready else 404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != f"/v2/models/{model.name}/infer":
                return self.answer(404, b"{}")
            length = int(self.headers["Inference-Header-Content-Length"])
            try:
                raw = model.infer(json.loads(body[:length]), body[length:])
            except ValueError as error:
                return self.answer(400, json.dumps({"error": str(error)}).encode())
            output = {
                "name": "scores",
                "datatype": "FP32",
                "shape": [len(raw) // 4, 1],
                "parameters": {"binary_data_size": len(raw)},
            }
            head = json.dumps({"model_name": model.name, "outputs": [output]}).encode()
            return self.answer(200, head + raw, len(head))

        def answer(self, status: int, body: bytes, head: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if head is not None:
                self.send_header("Inference-Header-Content-Length", str(head))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            """Nothing."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-repository", type=Path, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    options, _ = parser.parse_known_args()
    model = Model(options.model_repository)
    ThreadingHTTPServer(("", options.http_port), handler(model)).serve_forever()


if __name__ == "__main__":
    main()
