"""Ask a person whether a challenger may answer customers, and write the answer into the journal."""

from __future__ import annotations

from typing import Literal

from prefect import flow, suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.actions.person_fields import REASON
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.rollouts.journal.approval_codes import MOST_CHARACTERS, Question
from mlplatform.runtime import text
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.units import DAY_S

ATTEMPTS = 10
"""Of answers to one run. The next pass asks anew, so wrong answers keep nobody from answering."""
WAIT_S = 7 * DAY_S


class Approval(RunInput):
    """The form: a decision has no default, so that nobody approves by pressing Enter."""

    decision: Literal["approve", "reject"]
    code: str = Field(
        min_length=10,
        max_length=MOST_CHARACTERS,
        description="Your code for this decision: the page gives it, or `mlplatform rollouts"
        " approve ROLLOUT --code`",
    )
    # Spaces count for the form; the journal's own check, which strips them, asks again.
    reason: str = Field(
        min_length=REASON.least, max_length=REASON.most, description="What you looked at, and why"
    )


@flow(name="approval", flow_run_name=names.RUNS["approval"], persist_result=True)
def approval(model: str, rollout_id: str, evidence_digest: str) -> str:
    """Suspend until somebody answers; the answer is appended to the journal before anything else.

    Args:
        model: a model folder's name.
        rollout_id: the rollout that waits.
        evidence_digest: what the answer is bound to; an answer to other evidence is refused.
    """
    platform, note = wiring.platform(), ""
    page = f"{platform.settings.page_url}/rollouts/{rollout_id}"
    where = f"Read and answer this on [the platform's page]({page}), or here with a code.\n\n"
    key = names.evidence_key(rollout_id, evidence_digest)
    for attempt in range(ATTEMPTS):
        shown = job.evidence(platform, rollout_id, evidence_digest)
        artifacts.keep_page(key, shown, about=f"Evidence of rollout {rollout_id}")
        form = Approval.with_initial_data(description=note + where + shown)
        answer = suspend_flow_run(form, timeout=WAIT_S, key=f"{key}-{attempt}")
        question = Question(rollout_id, evidence_digest, answer.decision)
        try:
            outcome = job.record_approval(
                platform, question, code=answer.code, reason=answer.reason
            )
        except (Refused, InputInvalid) as refusal:
            note = f"**The last answer was refused:** {text.markdown(str(refusal))}\n\n"
            continue
        job.rollout_pass(platform, model)
        return outcome
    raise Refused(f"{ATTEMPTS} answers in a row were refused; {note}")
