"""Fields of the forms that start flows, with the limits of the command line."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from mlplatform.operations.actions.person_fields import ACTOR, REASON

_SECTION: Final = re.compile(r"^(Args|Raises|Returns|Source):", re.MULTILINE)


def description(docstring: str) -> str:
    """The part of a flow's docstring for the person before its form: all but its sections, of which
    the form shows arguments beside their fields."""
    return _SECTION.split(docstring, maxsplit=1)[0].strip()


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
Version = Annotated[int, Field(ge=1)]
"""The registry's number of a version; the deployment's form has the versions to choose from
(`choices`)."""
OptionalVersion = Annotated[int | None, Field(ge=1)]
"""A version, or none: the flow says what none means."""

RolloutId = Annotated[str, Field(pattern=r"^(|[A-Za-z0-9_-]{1,100}-v[1-9][0-9]*-[1-9][0-9]*)$")]
"""A rollout's id, which has its model, version and number, or nothing: the flow says what it means
then."""

_CLOCK = r"[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?"
Time = Annotated[
    datetime, Field(json_schema_extra={"pattern": rf"^\d{{4}}-\d{{2}}-\d{{2}}({_CLOCK})?$"})
]
"""A time in ISO 8601; without a zone it is UTC. Prefect's server checks a pattern and no format."""
Day = Annotated[
    date, Field(json_schema_extra={"pattern": r"^\d{4}-\d{2}-\d{2}(T00:00:00(\.0+)?Z?)?$"})
]
"""A day in ISO 8601, or its midnight, which a form's calendar may send."""
