"""Decide the requests of the last days again with a version, beside the champion or another one."""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from mlplatform.operations import wiring
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.operations.prefect_server.forms import OptionalVersion, Version
from mlplatform.operations.whatif import replay as job
from mlplatform.operations.whatif import replay_text
from mlplatform.operations.whatif.replay import Replay
from mlplatform.runtime.units import HOUR_S


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=HOUR_S)
def decide(
    model: str, version: int, against: int | None, begins: dict[str, float], days: int
) -> Replay:
    log = get_run_logger()

    def report(done: int) -> None:
        log.info("%d requests decided again", done)

    platform = wiring.platform()
    return job.replay_versions(
        platform, model, version, against=against, begins=begins, days=days, report=report
    )


@flow(name="replay", flow_run_name=names.RUNS["replay"], persist_result=False)
def replay(
    model: str,
    version: Version,
    against: OptionalVersion = None,
    begins: dict[str, float] | None = None,
    days: Annotated[int, Field(ge=1, le=90)] = 7,
) -> State[str]:
    """Say what a version would have decided in the last days; nothing but the report is written.

    Args:
        model: a model folder's name.
        version: the version to try.
        against: the version that it is compared with; default: the champion.
        begins: outcomes that begin at another score (0-1), or number, with the tried version, as in
            {"review": 0.12}, or in a segment {"large.review": 0.12}; default: as in its bundle.
        days: how many days of event time to go back.
    """
    found = decide(model, version, against, begins or {}, days)
    page = replay_text.page(found)
    artifacts.keep_page(f"replay-{model}", page, about="What would differ")
    for number, table in enumerate(replay_text.tables(found), start=1):
        key = f"replay-{number}-{model}"
        artifacts.keep_table(key, table.columns, table.rows, about=f"By {table.columns[0]}")
    artifacts.keep_links(artifacts.version_links(wiring.platform().settings, model, version))
    return Completed(message=replay_text.summary(found), data=page)
