"""The fork server's last import: work that is done once instead of in every child."""

from __future__ import annotations

import gc

from prefect.client.schemas.objects import FlowRun

from mlplatform.runtime.code_version import code_version

# Prefect builds the schemas of its models when they are first used; every run uses this one.
FlowRun.model_rebuild()

# A run is of the code that was imported here, and reads no file of it again to say which that is.
code_version()

# A collection would write into every object that was imported, and so copy its memory page.
gc.collect()
gc.freeze()
