"""The version that answers a customer: one for a whole rollout or A/B/n test, as a larger share
only adds customers; or the version that the request names."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from mlplatform.decisions.records.record import NAMED, VARIANT
from mlplatform.model.routes import BUCKETS, Arm, Routes
from mlplatform.runtime.errors import NotFound

AssignedArm = Literal["champion", "challenger", "variant", "named"]
"""An assigned arm: `variant` (`VARIANT`) in an A/B/n test; `named` (`NAMED`) if the request names
the version, which is then in no arm."""


class Assignment(msgspec.Struct, frozen=True):
    """The arm of one assignment unit.

    Args:
        arm: the assigned arm; the outcome counts for it even if another arm answers.
        bucket: number from 0 to 9999, fixed for a unit during a rollout or a test.
        target: the version to ask first.
        shadow: the version that gets a copy after the answer; None if there is none.
    """

    arm: AssignedArm
    bucket: int
    target: Arm
    shadow: Arm | None


def bucket(unit: int, salt: str) -> int:
    """A number from 0 to 9999, the same for the same unit and salt, evenly spread over units.

    Source: BLAKE2b keyed mode, RFC 7693; the salt is the key, so buckets of two rollouts are
    independent and no customer is always among the first.

    Raises:
        ValueError: the salt is longer than 64 bytes.
        OverflowError: the unit is not a signed 64-bit number.
    """
    mac = hashlib.blake2b(unit.to_bytes(8, "little", signed=True), key=salt.encode(), digest_size=8)
    return int.from_bytes(mac.digest(), "little") % BUCKETS


def assign(routes: Routes, unit: int) -> Assignment:
    """The arm for a unit under these routes.

    Raises:
        NotFound: the model has no champion yet.
    """
    if routes.champion is None:
        raise NotFound(f"model {routes.model!r} has no champion yet: no version was promoted")
    number = bucket(unit, _salt(routes))
    if routes.test is not None and routes.test.answering:
        for variant in routes.test.variants:
            if variant.has(number):
                return Assignment(VARIANT, number, variant.arm, None)
    if routes.challenger is None:
        return Assignment("champion", number, routes.champion, None)
    if routes.phase == "canary" and number < routes.challenger_percent * (BUCKETS / 100):
        return Assignment("challenger", number, routes.challenger, None)
    shadow = routes.challenger if routes.phase == "shadow" else None
    return Assignment("champion", number, routes.champion, shadow)


def assign_named(routes: Routes, unit: int, version: str) -> Assignment | None:
    """The assignment to the version that a request names; None if that version is not served.

    Args:
        version: the version's number in the registry, or the digest of its bundle.
    """
    for _, arm in routes.roles:
        if version in (str(arm.version), arm.bundle):
            return Assignment(NAMED, bucket(unit, _salt(routes)), arm, None)
    return None


def _salt(routes: Routes) -> str:
    """The salt of buckets: the test's own while its variants answer, else the rollout's."""
    if routes.test is not None and routes.test.answering:
        return routes.test.test_id
    return routes.rollout_id or routes.model
