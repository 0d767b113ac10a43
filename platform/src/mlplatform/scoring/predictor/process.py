"""`python -m mlplatform.process predictor`: one predictor process."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlplatform.runtime.canonical import DIGEST
from mlplatform.scoring.predictor.server import Arguments, serve


def parser() -> argparse.ArgumentParser:
    """The command line, which the KServe runtime writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dir", type=Path, required=True, help="The folder of the bundle.")
    parser.add_argument(
        "--model-name", required=True, help="The name of the service, as in the paths."
    )
    parser.add_argument(
        "--digest",
        type=_digest,
        default="",
        help="The digest of the bundle that the service is for: another one is not served. Empty: "
        "the first digits of it, in the service's name, have to do.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="The address on which it listens.")
    parser.add_argument(
        "--port", type=int, default=0, help="The port of HTTP; 0 takes any free one."
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        help="The port of gRPC; 0 takes any free one, and without it there is no gRPC.",
    )
    parser.add_argument(
        "--address-file",
        type=Path,
        help='A file that gets {"port": ..., "pid": ..., "grpc_port": ...}.',
    )
    parser.add_argument(
        "--token-file", type=Path, help="A file with the bearer token that callers must send."
    )
    parser.add_argument(
        "--drain-s",
        type=float,
        default=0.5,
        help="Seconds for which it goes on answering after SIGTERM.",
    )
    parser.add_argument(
        "--termination-log",
        type=Path,
        help="A file that gets the reason why the model can't be served, before the process ends. "
        "Without it, the process stays.",
    )
    parser.add_argument(
        "--accelerator",
        choices=("cpu", "gpu", "cuda", "tensorrt"),
        default="cpu",
        help="The hardware that the model runs on; gpu: the processor where there is no GPU.",
    )
    parser.add_argument(
        "--batch-rows", type=_count, default=1024, help="The most rows in one call of the model."
    )
    parser.add_argument(
        "--batch-delay-us",
        type=_count_or_none,
        default=300,
        help="Microseconds that a batch may wait for more rows, under load.",
    )
    parser.add_argument(
        "--queue-limit",
        type=_count,
        default=256,
        help="The most requests that may wait; others get 503.",
    )
    return parser


def _digest(text: str) -> str:
    if text and not DIGEST.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256 digest in hexadecimal")
    return text


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def run(options: argparse.Namespace) -> None:
    """Serves one bundle until it is stopped."""
    serve(Arguments(**vars(options)))
