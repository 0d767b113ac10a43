"""Exit codes of commands: one number for each kind of end, listed in `mlplatform --help`."""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.runtime import errors

FAILED = 1
USAGE = 2
UNAVAILABLE = 3
REFUSED = 4
EXIT_CODES: tuple[tuple[type[errors.PlatformError], int], ...] = (
    (errors.Unavailable, UNAVAILABLE),
    (errors.Busy, UNAVAILABLE),
    (errors.Refused, REFUSED),
    (errors.ConfigInvalid, USAGE),
    (errors.InputInvalid, USAGE),
    (errors.NotFound, USAGE),
)


def exit_code(error: errors.PlatformError) -> int:
    """The exit code of an error of this process."""
    return _code(type(error))


def exit_code_of_class(name: str) -> int:
    """The exit code of an error of another process, of which only the class's name is known."""
    known = (kind for kind in _classes(errors.PlatformError) if kind.__name__ == name)
    return next(map(_code, known), FAILED)


def _code(kind: type[errors.PlatformError]) -> int:
    return next((code for known, code in EXIT_CODES if issubclass(kind, known)), FAILED)


def _classes(kind: type[errors.PlatformError]) -> Iterator[type[errors.PlatformError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _classes(below)
