"""The reader of a page, whom every template shows at its top, and to whom forms are bound."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from mlplatform.observing.page.people import acts
from mlplatform.observing.page.people.sessions import Session
from mlplatform.rollouts.journal.approval_codes import Approver
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.admission.secrets import key_id

ANONYMOUS_READER: Final = "page token"
"""Name of a reader who proved only the page's token; no client can have it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The person who has signed in and reads.

    Args:
        client: the person, with the scopes of the key or of the groups at the identity provider;
            None if the reader has only the page's token.
        notice: the result of the last action, shown once.
        refreshes: whether the page's script asks, and no person does.
    """

    session: Session
    client: Client | None
    notice: str
    refreshes: bool = False

    @property
    def name(self) -> str:
        return self.session.name

    @property
    def roles(self) -> tuple[str, ...]:
        return acts.roles(self.client)

    @property
    def approver(self) -> Approver:
        """The person as the journal names an approver."""
        if self.session.person is not None:
            return Approver.by_provider(self.name, self.session.person.identity)
        return Approver(self.name, key_id(self.session.key))

    def may_review(self, model: str) -> bool:
        """Whether this person may say how decisions of a model turned out."""
        return self.client is not None and self.client.may(model, "review")

    def lacks(self, scope: str) -> str:
        """The sentence that says that this person lacks a scope."""
        if self.identity is None:
            return f"the key of {self.name} has no scope {scope}"
        return f"no group of {self.name} at {self.identity.issuer} has scope {scope}"

    @property
    def identity(self) -> ProvenIdentity | None:
        """The person's identity at the provider; None if a key proved this person."""
        person = self.session.person
        return None if person is None else person.identity


def may_see(model: str) -> bool:
    """Whether the reader may look at a model, by any scope on it or by the page's token."""
    reader = READER.get()
    return reader is None or reader.client is None or reader.client.has_scope_on(model)


READER: Final[ContextVar[Reader | None]] = ContextVar("reader", default=None)
"""Reader of the present request; None if nobody has signed in, or a program has the token."""
