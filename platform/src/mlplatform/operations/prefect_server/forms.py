"""Fields of the forms that start flows, with the limits that the command line holds to as well."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from mlplatform.operations.actions.person_fields import ACTOR, REASON

Actor = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=ACTOR.least, max_length=ACTOR.most),
]
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=REASON.least, max_length=REASON.most),
]
OptionalReason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=REASON.most)]
"""Empty, or as long as a reason: what takes it checks that."""
