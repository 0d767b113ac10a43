"""Whether an error that MLflow calls a bad request is a failure of its database."""

from __future__ import annotations

import re
from typing import Final

BAD_REQUEST: Final = "BAD_REQUEST"
"""MLflow's code for every error of SQLAlchemy except an OperationalError."""

# A message begins with the class of the driver's error in brackets; the statement and its values
# follow.
_DRIVER: Final = re.compile(r"\((?:\w+\.)*(?:InterfaceError|OperationalError)\) ")
# Classes of SQLSTATE: connection, authorization, resources, operator intervention, system errors.
_SERVER: Final = re.compile(r"\((?:\w+\.)*\w+Error\) \{[^\n]*'C': '(?:08|28|53|57|58)")
_POOL: Final = re.compile(r"QueuePool limit|Can't reconnect until invalid transaction")


def database_away(code: str, message: str) -> bool:
    """Whether a later attempt may succeed, although the status was 400.

    Args:
        code: MLflow's `error_code`.
        message: MLflow's `message`, before which its client puts the code.
    """
    if code != BAD_REQUEST:
        return False
    reason = message.removeprefix(f"{BAD_REQUEST}: ")
    return any(pattern.match(reason) for pattern in (_DRIVER, _SERVER, _POOL))
