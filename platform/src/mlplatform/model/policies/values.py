"""Types of values that sections of model.yaml share, and of their rules. No number is NaN."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NAME_PATTERN = r"\A[a-z][a-z0-9_-]{0,27}\Z"
"""Pattern of model names. Names of jobs hold one, and have at most 53 characters."""
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Team = Annotated[str, Meta(pattern=r"\A[a-z]([a-z0-9-]{0,28}[a-z0-9])?\Z")]
FieldName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]
Text = Annotated[str, Meta(pattern=r"\S", max_length=500)]
Words = Annotated[tuple[Annotated[str, Meta(max_length=1024)], ...], Meta(max_length=10_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=1)]
ErrorShare = Annotated[float, Meta(gt=0, lt=0.5)]
"""Share of errors, more than 0: at 0 an interval is so wide that nothing is ever proven, and the
test is switched off."""
Rule = tuple[bool, str, object, str]
"""Whether a rule holds, the key that it is about, that key's value, and what is wanted there."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A section of model.yaml. Unknown and missing keys are errors."""
