"""Score payments, report how one turned out, and tell errors apart.

python score_payments.py https://scoring.bank.example /path/to/api.key
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from mlplatform_client import CallFailed, Client, InputRefused, Label, Overloaded, Settings

MODEL = "fraud"


def print_retry(error: CallFailed, pause_s: float) -> None:
    """Is told of each further attempt."""
    print(f"again in {pause_s:.2f} s: {error}")


def main(address: str, key_file: str) -> int:
    """Exit code 0 where all went well."""
    settings = Settings(deadline_s=5.0, on_retry=print_retry)
    with Client(address, Path(key_file).read_text(), settings) as client:
        payment = {"customer_id": 7, "terminal_id": 9, "amount": 31.5}
        now = datetime.now(UTC)
        try:
            answer = client.score(
                MODEL, {**payment, "event_time": now}, key=f"payment-{now.timestamp()}"
            )
        except InputRefused as error:
            print(f"a mistake of ours in {error.field}: {error}")
            return 2
        except Overloaded as error:
            print(f"come back in {error.retry_after_s} s: {error}")
            return 1
        except CallFailed as error:
            print(f"no decision: {error}")
            return 1
        print(answer.decision, answer.score, [reason.code for reason in answer.reasons])

        amounts = [10.0, 640.0, 950.0]
        many = [{**payment, "amount": amount, "event_time": now} for amount in amounts]
        for result in client.score_batch(MODEL, many):
            print(result.answer.decision if result.answer else result.error)

        outcome = Label(label=0, decision_id=answer.decision_id, event_time=datetime.now(UTC))
        print(client.label(MODEL, [outcome]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
