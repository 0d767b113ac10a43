"""`python -m mlplatform.predictor`: one predictor process."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mlplatform.supervisor.lifeline import follow_parent


def parser() -> argparse.ArgumentParser:
    """The command line, which the KServe runtime writes too."""
    taken = argparse.ArgumentParser(prog="mlplatform.predictor", description=__doc__)
    taken.add_argument("--model-dir", type=Path, required=True, help="the bundle's folder")
    taken.add_argument("--model-name", required=True, help="the service's name, as in the paths")
    taken.add_argument("--host", default="127.0.0.1")
    taken.add_argument("--port", type=int, default=0, help="0 takes any free port")
    taken.add_argument("--address-file", type=Path, help='gets {"port": ..., "pid": ...}')
    taken.add_argument("--token-file", type=Path, help="holds the bearer token to ask for")
    taken.add_argument(
        "--drain-s", type=float, default=0.5, help="seconds of answering on after SIGTERM"
    )
    return taken


def main() -> None:
    """Serves one bundle until told to stop."""
    options = parser().parse_args()
    follow_parent()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    from mlplatform.predictor.server import Arguments, run

    run(Arguments(**vars(options)))


if __name__ == "__main__":
    main()
