"""Whether a form is this page's own, this session's, and not used before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.observing.page.people.reader import Reader
from mlplatform.observing.page.people.sessions import Sessions

CONFLICT: Final = 409
KEPT: Final = "What you typed is below."
"""Ends the problem above a new form that stands in for a refused one."""


class WrongForm(Exception):
    """A form that is refused: a status, and a sentence for the sender."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def check_own(
    kept: Sessions,
    reader: Reader,
    act: str,
    about: str,
    fields: Mapping[str, str],
    says_origin: bool,
) -> str:
    """The state that a form had shown, if the form is this session's and unused.

    Args:
        act, about: the act and its subject, which the form must have.
        fields: the form's fields: the session's `token`, the `form` as it was offered, and the
            state `seen`.
        says_origin: whether the browser states that a page of this server sent the form.

    Raises:
        WrongForm: the form is not valid.
    """
    if not says_origin:
        raise WrongForm(403, "the form was not sent by a page of this server")
    if not reader.session.is_form_of_its_own(fields.get("token", "")):
        raise WrongForm(403, "the form is not of this session's pages: open it again")
    offer = kept.take(reader.session, fields.get("form", ""))
    if offer is None:
        raise WrongForm(CONFLICT, "the form was sent before, or is too old: send a new one")
    seen = fields.get("seen", "")
    if (offer.act, offer.about, offer.seen) != (act, about, seen):
        raise WrongForm(403, "the form was changed after the page made it: open it again")
    return seen
