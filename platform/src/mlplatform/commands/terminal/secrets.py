"""Secrets and codes of people, read from a file or a prompt and never from a command line."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable

MOST_BYTES = 4096


def secret_of(name: str, file: Path | None) -> bytes:
    """The secret of a person's key.

    Args:
        file: file that holds the secret; None means that the command prompts for it at the
            terminal.

    Raises:
        ConfigInvalid: the file cannot be read, or there is no file and no terminal.
    """
    if file is not None:
        try:
            with file.open("rb") as opened:
                return opened.read(MOST_BYTES).strip()
        except OSError as error:
            wanted = f"a file that holds the key of {name} ({error.strerror})"
            raise ConfigInvalid("--key-file", str(file), wanted) from error
    if not sys.stdin.isatty():
        raise ConfigUnusable("--key-file", "missing", f"the file that holds the key of {name}")
    asked: str = typer.prompt(f"key of {name}", hide_input=True)
    return asked.strip().encode()


def page_code() -> str:
    """A code that the page gave, from a prompt or from standard input."""
    if sys.stdin.isatty():
        asked: str = typer.prompt("the page's code")
        return asked.strip()
    return sys.stdin.read(MOST_BYTES).strip()
