"""A function is no bare participle, unless it gives its argument changed: CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "platform" / "src" / "mlplatform"
PARTICIPLE: Final = re.compile(r"_*(?:\w*[a-z](?:(?<!e)ed|ing)|given|held|known|sent|taken|told)")
NOUNS: Final = frozenset(("everything", "nothing"))
EARLIER: Final = frozenset(
    (
        "decisions/log/sqlite.py: _translated",
        "decisions/spill/files.py: moved",
        "decisions/spill/writer.py: _created",
        "decisions/topics/kafka_group.py: _assigned",
        "decisions/topics/kafka_group.py: _revoked",
        "decisions/topics/kafka_group.py: _watched",
        "decisions/topics/kafka_transactions.py: _committed",
        "decisions/topics/local_group.py: _joined",
        "learning/features/external_parts.py: noted",
        "learning/features/external_parts.py: served",
        "learning/features/external_parts.py: unserved",
        "learning/onnx/tree_shap.py: _summed",
        "learning/search/search.py: _reported",
        "model/features/views.py: quoted",
        "model/tensors/named_tensors.py: described",
        "observing/dashboards/model.py: _lacking",
        "observing/exporter/state.py: _refused",
        "observing/page/people/actions.py: waiting",
        "observing/page/people/gate.py: _opened",
        "observing/page/reading/sources.py: refused",
        "observing/page/reading/sources.py: unrestricted",
        "operations/backup/take.py: copied",
        "operations/compute/pool.py: waiting",
        "operations/prefect_server/pins.py: checked",
        "operations/prefect_server/prefect_gate.py: checked",
        "operations/prefect_server/prefect_gate.py: guarded",
        "operations/supervisor/supervisor.py: _changed",
        "rollouts/journal/journal.py: anchored",
        "rollouts/journal/sql.py: anchored",
        "rollouts/journal/sql.py: listed",
        "rollouts/outbox/event.py: structured",
        "rollouts/passes/count_cache.py: counted",
        "rollouts/serving/raw_route.py: _unmarked",
        "runtime/http/connection.py: _arriving",
        "runtime/http/connection.py: closed",
        "runtime/http/connection.py: ended",
        "runtime/http/connection.py: opened",
        "runtime/http/listener.py: ended",
        "runtime/http/uvicorn_limits.py: closed",
        "runtime/http/uvicorn_limits.py: opened",
        "runtime/storage/objects.py: listed",
        "runtime/storage/postgres.py: _connected",
        "runtime/storage/sql.py: reading",
        "runtime/storage/sql.py: writing",
        "runtime/storage/wal_readers.py: _wanted",
        "scoring/admission/jwks.py: _discovered",
        "scoring/admission/leases.py: _answered",
        "scoring/admission/postgres.py: _changed",
        "scoring/api/app.py: ended",
        "scoring/api/grpc_calls.py: _ended",
        "scoring/api/inference_api.py: described",
        "scoring/arms/live.py: stopped",
        "scoring/gateway/composition.py: committed",
        "scoring/predictor/app.py: _failed",
        "scoring/predictor/app.py: ended",
        "scoring/predictor/metrics.py: loaded",
        "scoring/predictor_client/breaker.py: answered",
        "scoring/predictor_client/breaker.py: failed",
        "scoring/predictor_client/breaker.py: renewed",
        "scoring/predictor_client/bulkhead.py: called",
        "scoring/predictor_client/predictor.py: _sent",
        "scoring/request/feature_reads.py: _finished",
        "scoring/request/metrics.py: _aged",
        "scoring/request/metrics.py: _missed",
        "scoring/request/metrics.py: answered",
        "scoring/request/metrics.py: decided",
        "scoring/worker/metrics.py: committed",
        "scoring/worker/metrics.py: retried",
        "scoring/worker/metrics.py: traced",
        "scoring/worker/outbox.py: _published",
        "scoring/worker/spans.py: called",
        "scoring/worker/stream_lag.py: committed",
        "scoring/worker/stream_lag.py: counted",
        "scoring/worker/stream_lag.py: delivered",
    )
)
"""Module and name of those that were there before this rule was checked, callbacks of events such
as `ended(reason)` among them: none is added."""


def bare_participles(text: str) -> Iterator[str]:
    """Functions and methods without an argument or a result; those with decorators apart."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        bare = node.name.lstrip("_")
        if "_" in bare or bare in NOUNS or not PARTICIPLE.fullmatch(bare):
            continue
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        takes = [one.arg for one in every if one.arg not in ("self", "cls")]
        gives = ast.unparse(node.returns) if node.returns else "None"
        if not node.decorator_list and (not takes or gives == "None"):
            yield node.name


def found() -> set[str]:
    return {
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in bare_participles(path.read_text())
    }


def test_no_function_is_named_by_a_participle_that_changes_nothing() -> None:
    assert found() - EARLIER == set()


def test_a_bare_participle_is_found_and_a_changed_argument_is_not() -> None:
    text = """
def served(self): ...
def _told(reason: str) -> None: ...
def merged(files: list[str]) -> list[str]: ...
def serve(self): ...
@property
def finished(self) -> bool: ...
"""
    assert sorted(bare_participles(text)) == ["_told", "served"]
