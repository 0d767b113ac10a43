"""Errors of the platform: one class for each thing that a caller can do something about.

PlatformError
├── ConfigInvalid        a setting or a model folder says something that can't be
│   ├── ConfigUnusable   what is wrong is no single value, or the value may not be shown
│   └── SettingsInvalid  several settings are wrong
├── InputInvalid         data from outside is refused; nothing of it was taken in
├── NotFound             a name that nothing here has
│   └── MissingHere      the home folder lacks what a platform makes in it
├── Unavailable          a system did not answer; trying again later may help
│   └── ServerUnavailable  it is a server of the bank's own, which the platform does not start
├── Busy                 somebody else holds what is needed (a lease, a port, a claim)
├── Refused              the platform's rules forbid what was asked
│   ├── StaleFence       the caller's lease was taken over: it must stop
│   ├── PlanRefused      a rollout can't decide in time at the present traffic
│   └── GateFailed       a candidate did not pass validation
├── JobFailed            heavy work ended without results; says how
└── Corrupt              stored bytes are not what their digest says
"""

from __future__ import annotations

from collections.abc import Sequence


class PlatformError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigInvalid(PlatformError):
    """A setting or a model folder is wrong. The error names the key, the value and what is
    wanted."""

    def __init__(self, key: str, value: object, wanted: str) -> None:
        shown = "missing" if value is None else repr(value)
        super().__init__(f"{key} is {shown}; wanted: {wanted}")
        self.key = key


class ConfigUnusable(ConfigInvalid):
    """A file or a setting can't be used: names it, the problem and what is wanted."""

    def __init__(self, key: str, problem: str, wanted: str) -> None:
        PlatformError.__init__(self, f"{key}: {problem}; wanted: {wanted}")
        self.key = key


class SettingsInvalid(ConfigInvalid):
    """Several settings are wrong, a line for each; the key is that of the first."""

    def __init__(self, problems: Sequence[ConfigInvalid]) -> None:
        lines = "".join(f"\n  {problem}" for problem in problems)
        Exception.__init__(self, f"{len(problems)} settings are wrong:{lines}")
        self.key = problems[0].key


class InputInvalid(PlatformError):
    """Data from outside was refused as a whole. The error names the file and the row; the first row
    is row 0, as in results of a batch."""

    def __init__(self, source: str, row: int | None, problem: str, kind: str = "") -> None:
        where = source if row is None else f"{source}, row {row}, counted from 0"
        super().__init__(f"{where}: {problem}")
        self.source = source
        self.row = row
        self.problem = problem
        self.kind = kind or problem  # the problem without the value of the row


class NotFound(PlatformError):
    """Nothing with that name exists here."""


class MissingHere(NotFound):
    """The home folder lacks what a platform makes in it: it may be another folder than meant."""

    def __init__(self, what: str, folder: object) -> None:
        """
        Args:
            what: the missing part in words, without an article.
            folder: the path where it would be.
        """
        where = "if it is elsewhere, set MLPLATFORM_HOME to the platform's home folder"
        super().__init__(f"no {what} in {folder}: `mlplatform up` makes it; {where}")


class Unavailable(PlatformError):
    """A needed system did not answer."""


class ServerUnavailable(Unavailable):
    """A server that the platform uses but does not run, such as PostgreSQL, did not answer."""

    def __init__(self, message: str, way: str) -> None:
        """
        Args:
            way: what helps, in words: where to look and which setting names the server.
        """
        super().__init__(message)
        self.way = way


class Busy(PlatformError):
    """Somebody else holds the resource now."""


class Refused(PlatformError):
    """The platform's rules forbid the request."""


class StaleFence(Refused):
    """Another process has taken over the work that this one began; this one must stop at once."""


class PlanRefused(Refused):
    """A rollout that can't decide by its deadlines at the present traffic."""


class GateFailed(Refused):
    """A candidate did not pass validation, or too little is known to make one."""


class JobFailed(PlatformError):
    """Heavy work ended without results: it failed, was cancelled or took too long."""


class Corrupt(PlatformError):
    """Stored bytes are damaged, or a model does not score as it did when it was stored."""
