"""The fork server's last import: work that is done once instead of in every child."""

from __future__ import annotations

import gc

from prefect.client.schemas.objects import FlowRun

# Prefect builds the schemas of its models when they are first used; every run uses this one.
FlowRun.model_rebuild()

# A collection would write into every object that was imported, and so copy its memory page.
gc.collect()
gc.freeze()
