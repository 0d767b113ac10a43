"""Client of the gateway for commands, by the client library that applications use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import mlplatform_client as client_library
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import InputInvalid, PlatformError, Refused, Unavailable
from mlplatform.runtime.processes.credentials import api_key
from mlplatform_client import CallFailed, Client

ASKED: Final = client_library.Settings(
    deadline_s=10.0, retries=client_library.Retries(attempts=1, attempt_s=10.0)
)
"""Client settings without retries: a person sees what went wrong and repeats the command."""


@contextmanager
def gateway(settings: Settings) -> Iterator[Client]:
    """A client of this installation's gateway, with its first API key.

    Raises:
        PlatformError: a call inside the block failed; the error is the one that a command reports.
    """
    try:
        with Client(settings.gateway_url, api_key(settings), ASKED) as client:
            yield client
    except CallFailed as failed:
        raise error_of(failed, settings.gateway_url) from failed


def error_of(failed: CallFailed, url: str) -> PlatformError:
    """A failed call as an error of the command, which determines its exit code."""
    match failed:
        case client_library.NotAuthenticated() | client_library.NotAllowed():
            return Refused(f"the gateway at {url}: {failed}")
        case client_library.InputRefused():
            return InputInvalid(f"the gateway at {url}", None, str(failed))
        case client_library.Conflict() if failed.problem == "idempotency-key-reused":
            return InputInvalid(f"the gateway at {url}", None, str(failed))
        case client_library.AnswerNotUnderstood() | client_library.Unavailable(status=500 | 501):
            return PlatformError(f"the gateway at {url}: {failed}")
        case _:
            return Unavailable(f"the gateway at {url}: {failed}")
