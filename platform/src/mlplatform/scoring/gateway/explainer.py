"""`python -m mlplatform.process explainer`: explains decisions for the gateway that starts it.

A gateway does so when a client asks why, and ends it again. A request is a line on standard input,
which is a socket, and its reply a line back.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.explanations.answer import (
    ExplanationReply,
    ExplanationRequest,
    NoExplanation,
)
from mlplatform.scoring.explanations.decision_explainer import DecisionExplainer
from mlplatform.scoring.explanations.process import READY

FIRST_TO_GO: Final = "1000"
"""Score by which the kernel ends it before a gateway when memory runs out."""
RETRY_S: Final = 2
_SCORE: Final = Path("/proc/self/oom_score_adj")

log = logging.getLogger(__name__)
_request = msgspec.json.Decoder(ExplanationRequest)
_encode = msgspec.json.Encoder().encode


def parser() -> argparse.ArgumentParser:
    """The command line, which a gateway writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--decisions", type=Path, required=True, help="The folder of the decision log."
    )
    parser.add_argument("--bundles", type=Path, required=True, help="The folder of bundles.")
    return parser


def run(options: argparse.Namespace) -> None:
    """Answers until the gateway closes the socket."""
    with suppress(OSError):  # it protects other processes and is not a limit
        _SCORE.write_text(FIRST_TO_GO)
    with (
        socket.socket(fileno=os.dup(sys.stdin.fileno())) as channel,
        channel.makefile("rb") as lines,
        closing(scoring_wiring.log_in(options.decisions)) as decisions,
    ):
        decisions.read(RecordQuery(decision_id=""))  # loads what reads segments, before it is ready
        explainer = DecisionExplainer(decisions, options.bundles)
        channel.sendall(READY + b"\n")
        for line in lines:
            channel.sendall(_encode(reply(explainer, _request.decode(line))) + b"\n")


def reply(explainer: DecisionExplainer, request: ExplanationRequest) -> ExplanationReply:
    """The reply to a request, whatever becomes of it."""
    try:
        found = explainer.explain(request)
    except PlatformError as error:
        log.error("decision %s is not explained: %s", request.decision_id, error)
        detail = "the decision log or the bundle cannot be read now; ask again"
        found = NoExplanation("explanation-unavailable", detail, 503, RETRY_S)
    except Exception:
        log.exception("decision %s is not explained", request.decision_id)
        detail = "the gateway failed at this explanation; its log says why"
        found = NoExplanation("internal", detail, 500)
    if isinstance(found, NoExplanation):
        return ExplanationReply(problem=found)
    return ExplanationReply(answer=msgspec.Raw(_encode(found)))
