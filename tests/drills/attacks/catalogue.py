"""All attacks, in the order in which they are made: what would end the world's state comes last."""

from __future__ import annotations

from tests.drills.attacks import (
    approvals,
    candidates,
    gateway_doors,
    homes,
    listeners,
    page_forms,
    prefect_code,
    prefect_doors,
    prefect_paths,
    processes,
    registry_doors,
    sessions,
    texts,
)
from tests.drills.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    *homes.attacks(),
    *processes.attacks(),
    *gateway_doors.attacks(),
    *registry_doors.attacks(),
    *prefect_paths.attacks(),
    *sessions.attacks(),
    *prefect_doors.attacks(),
    *prefect_code.attacks(),
    *texts.attacks(),
    *approvals.attacks(),
    *page_forms.attacks(),
    *candidates.attacks(),
    *listeners.attacks(),
    *prefect_doors.last(),
)
