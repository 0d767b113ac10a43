"""Fields of the forms that start flows, with the limits of the command line."""

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
"""Empty, or of the length of a reason; the flow checks the lower limit."""
