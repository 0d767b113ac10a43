"""Explanations from the decision log and the bundles of this machine, one at a time.

It computes what `mlplatform log explain` and the platform's page show, by the same functions.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from mlplatform.decisions.log.lookup import all_records, logged_records
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.record import MODELS
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, NotFound
from mlplatform.scoring.explanations.answer import (
    Contribution,
    ExplanationAnswer,
    ExplanationRequest,
    NoExplanation,
    RuleValues,
)
from mlplatform.scoring.request.answers import AnsweredBy, Degradation, ModelInfo, ReasonInfo
from mlplatform.scoring.request.explain import (
    Decider,
    Explanation,
    RuleCause,
    explain_rows,
    load_decider,
)

KEPT_DECIDERS: Final = 2
"""Most bundles that are kept ready: a champion and the version before it. Loading one takes longer
than an explanation."""

PENDING_S: Final = 1
"""Seconds after which a caller asks again about a decision that is still to come."""

Row = Mapping[str, Any]
log = logging.getLogger(__name__)


class DecisionExplainer:
    """Explains decisions of one log.

    Args:
        bundles: the folder of bundles, which have the names of their digests.
    """

    def __init__(self, decisions: SqliteDecisionLog, bundles: Path) -> None:
        self._log = decisions
        self._bundles = bundles
        self._decider = functools.lru_cache(KEPT_DECIDERS)(self._loaded)

    def explain(self, request: ExplanationRequest) -> ExplanationAnswer | NoExplanation:
        """The explanation of a decision, or the reason that there is none.

        Raises:
            PlatformError: the log can't be read now.
        """
        row = self._decision(request)
        if isinstance(row, NoExplanation):
            return row
        why = self._obstacle(row)
        if why is not None:
            return why
        try:
            (found,) = explain_rows([row], self._decider)
            return self._answer(row, found)
        except (ConfigInvalid, Corrupt, NotFound) as error:
            log.error("decision %s is not explained: %s", request.decision_id, error)
            damaged = "its bundle or its model's folder is damaged, or does not fit its record"
            return _not_reproduced(request.decision_id, damaged)

    def _decision(self, request: ExplanationRequest) -> Row | NoExplanation:
        """The record of a decision, with its payload parsed."""
        decision_id, by_kind = request.decision_id, dict[str, Row]()
        for read in (logged_records, all_records):  # spills are read only if the log lacks it
            with suppress(NotFound):
                rows = read(self._log, decision_id, from_ms=request.from_ms, to_ms=request.to_ms)
                by_kind = {row["kind"]: row for row in rows if row["model"] == request.model}
            if (row := by_kind.get("decision")) is not None:
                return row
        if "inference" in by_kind:
            what = "its caller sent rows of inputs, not a request"
            return NoExplanation("raw-scores", f"decision {decision_id} is not explained: {what}")
        if "accepted" in by_kind:
            detail = f"decision {decision_id} is still to come; ask again once it is there"
            return NoExplanation("decision-pending", detail, 409, PENDING_S)
        detail = (
            f"this gateway's log has no record of decision {decision_id}: it is in the log of"
            " another gateway, or the answer was given without a record"
        )
        return NoExplanation("record-not-here", detail, 404)

    def _obstacle(self, row: Row) -> NoExplanation | None:
        """Why nothing explains a decision; None if it can be decided again."""
        decision_id, by, bundle = row["decision_id"], row["answered_by"], row["bundle"]
        if not row["payload"]:
            detail = (
                f"the record of decision {decision_id} was erased, or is older than its model keeps"
                " payloads; nothing else explains it"
            )
            return NoExplanation("payload-erased", detail)
        if by not in (*MODELS, "rules"):
            what = "the small model" if by == "small_model" else "the safe default"
            detail = (
                f"decision {decision_id} was made by {what} ({row['degraded_reason']}) and"
                " by neither version nor rules; the answer's reasons are all that explains it"
            )
            return NoExplanation("decided-without-model", detail)
        if not (self._bundles / str(bundle)).is_dir():
            model, version = row["model"], row["version"]
            detail = (
                f"version {version} of {model}, which made decision {decision_id}, is not on this"
                f" machine; `mlplatform models card {model} {version}` brings it back from the"
                " registry"
            )
            return NoExplanation("bundle-gone", detail)
        return None

    def _answer(self, row: Row, found: Explanation) -> ExplanationAnswer | NoExplanation:
        logged = found.logged
        if found.differences:
            return _not_reproduced(found.decision_id, "; ".join(found.differences))
        rules = [c for c in found.causes if isinstance(c, RuleCause)]
        if logged is None or not (found.contributions or rules):
            return _not_reproduced(found.decision_id, found.note or "nothing was decided")
        bundle = self._decider(found.model, found.bundle or "").bundle
        texts = {reason.code: reason.customer for reason in bundle.reasons.values()}
        texts |= {rule.code: rule.text for rule in bundle.rules} if rules else {}
        return ExplanationAnswer(
            decision_id=found.decision_id,
            decision=logged.decision,
            score=logged.score,
            thresholds=found.thresholds,
            answered_by=cast(AnsweredBy, found.answered_by),
            model=ModelInfo(found.version or 0, found.bundle or ""),
            degraded=Degradation(found.degraded_reason or "") if row["degraded"] else None,
            method=bundle.attribution.method if found.contributions else None,
            baseline=found.base,
            contributions=[
                Contribution(one.input, one.value, one.ordinary, one.contribution)
                for one in found.contributions
            ],
            rules=[RuleValues(one.code, one.text, one.values) for one in rules],
            reasons=[ReasonInfo(code, texts.get(code, code)) for code in logged.reasons],
            note=found.note,
        )

    def _loaded(self, model: str, digest: str) -> Decider:
        return load_decider(self._bundles, model, digest)


def _not_reproduced(decision_id: str, why: str) -> NoExplanation:
    detail = (
        f"decision {decision_id}, computed again, differs from its record, so nothing explains it:"
        f" {why}; the model's owner finds more by `mlplatform log explain {decision_id}`"
    )
    return NoExplanation("not-reproduced", detail)
