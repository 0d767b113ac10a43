"""The evidence on a candidate of classes or of numbers: requests with a known label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import (
    MINIMUM_LABELLED,
    GateResult,
    too_few_units,
)
from mlplatform.learning.validation.gates import (
    DataEvidence,
    ModelEvidence,
    ReplayEvidence,
    SchemaEvidence,
)
from mlplatform.learning.validation.measures import Measure


@dataclass(frozen=True, slots=True)
class LabelledEvidence:
    """All evidence for the gates of classes and of numbers.

    Args:
        labelled: number of held-out requests whose class or number is known.
        units: number of customers, or other units, of whom these are.
        of_class: class → number of labelled requests in the window; empty for a model of numbers.
        identifiers, growing: names of inputs that identify the customer or the request, and of
            inputs that rise or fall with event time.
        measures: measures on the held-out days, beside the champion's on the same rows. Nothing is
            learned from these days.
        unseen: the same measures on the days to which the champion was not fitted; empty if there
            are too few.
    """

    model: str
    bundle: str
    champion: str | None
    data: DataEvidence
    schema: SchemaEvidence
    running: ModelEvidence
    replay: ReplayEvidence
    labelled: int
    units: int
    of_class: Mapping[str, int]
    identifiers: tuple[str, ...]
    growing: tuple[str, ...]
    measures: tuple[Measure, ...]
    unseen: tuple[Measure, ...]
    skew: SkewReport | None = None
    has_features: bool = True

    def measure(self, name: str) -> Measure | None:
        """The measure of that name; None if nothing could be measured."""
        return next((m for m in self.measures if m.name == name), None)

    def report(self, results: tuple[GateResult, ...]) -> GateReport:
        """The report with these results."""
        return GateReport(
            self.model, self.bundle, self.champion, results, self.replay.counts, self.measures
        )


def judge_leaks(evidence: LabelledEvidence) -> GateResult:
    """Checks that no input says whose request it is, or grows with time."""
    problems = [f"{n} identifies a row's customer or request" for n in evidence.identifiers]
    problems += [f"{n} grows with time" for n in evidence.growing]
    if problems:
        reason = f"{'; '.join(problems)}: take it out of the inputs"
        return GateResult("leakage", "failed", float(len(problems)), 0.0, reason)
    reason = "no input identifies a row's customer or request, or grows with time"
    return GateResult("leakage", "passed", 0.0, 0.0, reason)


def undecided_reason(evidence: LabelledEvidence, name: str) -> str | None:
    """Why no verdict is possible; None if one is."""
    if evidence.labelled < MINIMUM_LABELLED:
        return (
            f"only {evidence.labelled:,} labelled requests to judge by (at least "
            f"{MINIMUM_LABELLED:,} wanted)"
        )
    if (few := too_few_units(evidence.units)) is not None:
        return few
    found = evidence.measure(name)
    if found is None or (evidence.champion is not None and found.difference is None):
        return "the scores of one of the two versions could not be measured"
    return None
