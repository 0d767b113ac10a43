"""Messages are read out of code, whatever way they are made."""

from __future__ import annotations

import textwrap

import pytest

from mlplatform.commands.documents.message_templates import Catalogue

ERRORS = '''
class Gone(Exception):
    """Nothing is here."""

class Wrong(Gone):
    def __init__(self, key, value, wanted):
        shown = "missing" if value is None else repr(value)
        super().__init__(f"{key} is {shown}; wanted: {wanted}")

WANTED = "a port, " + "1 to 65535"
KIB = 1024
'''


def messages(code: str) -> list[tuple[str, str]]:
    """Names and texts that a module has beside one of errors."""
    head = "import logging\nfrom own.errors import KIB, WANTED, Gone, Wrong\n"
    files = {
        "errors.py": ("own.errors", ERRORS),
        "module.py": ("own.module", head + textwrap.dedent(code)),
    }
    return [(m.name, m.text) for m in Catalogue(files).messages() if m.module == "module.py"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('raise Gone("it is gone")', [("Gone", "it is gone")]),
        ('raise Gone(f"no {self._kind_name}, of {len(rows)} rows")',
         [("Gone", "no ‹kind name›, of ‹number› rows")]),
        ('raise Wrong("port", 80, WANTED)',
         [("Wrong", "port is 80; wanted: a port, 1 to 65535")]),
        ('raise Wrong("port", "one", WANTED)',
         [("Wrong", "port is 'one'; wanted: a port, 1 to 65535")]),
        ('raise Wrong("port", None, WANTED)',
         [("Wrong", "port is missing; wanted: a port, 1 to 65535")]),
        ('def _of(at):\n  return at.port if at else None\nraise Wrong("port", _of(at), WANTED)',
         [("Wrong", "port is '‹port›'; wanted: a port, 1 to 65535"),
          ("Wrong", "port is missing; wanted: a port, 1 to 65535")]),
        ('def _why(at):\n  return "it is gone" if at else None\nraise Gone(f"{_why(at)} or not")',
         [("Gone", "it is gone or not")]),
        ('def f(port):\n  why = f"{port:,} is no {port:.1%}"\n  raise Gone(why) from None',
         [("Gone", "‹number› is no ‹number›%")]),
        ('def _gone(what):\n  return Gone(f"{what} is gone")\nraise _gone("a log")',
         [("Gone", "‹what› is gone")]),
        ('def _gone(what) -> Gone:\n  return Gone(f"{what} is gone")\nraise _gone("a log")',
         [("Gone", "a log is gone"), ("Gone", "‹what› is gone")]),
        ('raise Gone("a day is left" if one else "more days are left")',
         [("Gone", "a day is left"), ("Gone", "more days are left")]),
        ('log.warning("%s: %d", name, len(all))\n', []),
        ('log.warning("kept %s of %d", a, len(all))\n', [("warning", "kept ‹a› of ‹number›")]),
        ('LIMIT = 2 * 1024\nraise Gone(f"more than {LIMIT} bytes")',
         [("Gone", "more than 2048 bytes")]),
        ('LIMIT = 2 * KIB\nraise Gone(f"more than {LIMIT} bytes, or {LIMIT * rows}")',
         [("Gone", "more than 2048 bytes, or ‹LIMIT›")]),
        ('raise Gone(str(error))', []),
        ('print(f"a sentence of {name} for people")', [("", "a sentence of ‹name› for people")]),
        ('"""A sentence about this module."""\nsql = "SELECT all of the rows"', []),
    ],
)  # fmt: skip
def test_a_message_has_names_and_examples_where_values_stand(
    code: str, expected: list[tuple[str, str]]
) -> None:
    assert messages(code) == expected


def test_a_value_that_is_replaced_before_its_use_is_in_no_message() -> None:
    """One name may stand for two things, one after the other."""
    code = """
        def check(at, rows):
            known = "a label"
            if at:
                raise Gone(f"it has {known}")
            known = "decisions"
            for row in rows:
                if row:
                    known = "applications"
                raise Gone(f"people see only {known}")
    """
    assert messages(code) == [
        ("Gone", "it has a label"),
        ("Gone", "people see only applications"),
        ("Gone", "people see only decisions"),
    ]


def test_a_message_before_which_its_caller_puts_a_file_has_that_subject() -> None:
    code = "class Read(Gone):\n  def __init__(self, source, problem):\n"
    code += '    super().__init__(f"{source}: {problem}")\nraise Read("", "it has no rows")\n'
    assert ("Read", "‹file›: it has no rows") in messages(code)
