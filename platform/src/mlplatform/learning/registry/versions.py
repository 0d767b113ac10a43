"""The port of the registry: versions that may serve, and records of rejected candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.validation.report_entries import ValidationReport

STATUS_TAG = "status"
FACTS_TAG = "facts"
VALIDATED = "validated"
TRAINED_HERE = "trained here"
"""Origin of a bundle that a model's own folder fitted; a bundle from elsewhere never has it."""


class VersionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that the registry stores of a candidate beside its bundle.

    `folder` is the digest of the model folder that fitted it; empty for a model from elsewhere.
    `report` is the gate report as JSON can hold it, `validated` whether it passed. `seed` is the
    one that fitting and intervals were drawn with. `reason` is why it was asked for; empty if it
    was made before reasons were stored.
    """

    bundle: str
    data_from_ms: int
    data_to_ms: int
    data_digest: str
    code_version: str
    metrics: dict[str, float]
    report: ValidationReport
    author: str
    validated: bool
    alert_low: float
    alert_high: float
    seed: int
    folder: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: validated, and therefore deployable."""

    model: str
    version: int
    digest: str
    run_id: str
    created_at_ms: int
    facts: VersionFacts


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate that did not pass: stored as a record, never deployable."""

    model: str
    digest: str
    run_id: str
    reasons: tuple[str, ...]


def read_version(
    model: str, version: int, tags: Mapping[str, str], *, run_id: str, created_at_ms: int
) -> Version | None:
    """A version from its tags; None if this platform did not register it as validated."""
    if tags.get(STATUS_TAG) != VALIDATED or FACTS_TAG not in tags:
        return None
    facts = msgspec.json.decode(tags[FACTS_TAG], type=VersionFacts)
    return Version(model, version, facts.bundle, run_id, created_at_ms, facts)


class Registry(Protocol):
    """Versions of models. Every method may be repeated.

    Raises:
        Unavailable: the registry did not answer; from any method.
    """

    def register(
        self, folder: Path, facts: VersionFacts, record: RunRecord | None = None
    ) -> Version | Rejection:
        """Register the bundle in a folder: as a version if it was validated, else as a record.

        Registering the same bundle again gives the version that it has.

        Args:
            record: what people see of the run; the platform never reads it back.

        Raises:
            BundleCorrupt: the folder is not the bundle that the facts describe.
        """
        ...

    def get(self, model: str, version: int) -> Version:
        """One version.

        Raises:
            NotFound: there is no such version, or it was not registered through here.
        """
        ...

    def versions(self, model: str) -> Sequence[Version]:
        """All versions of a model, newest first; none for a model that was never registered."""
        ...

    def fetch(self, model: str, version: int, into: Path) -> Path:
        """The folder `into`/<digest> with the version's bundle, fetched and checked if necessary.

        Raises:
            NotFound: there is no such version.
            BundleCorrupt: the stored bundle does not match the version's digest.
        """
        ...
