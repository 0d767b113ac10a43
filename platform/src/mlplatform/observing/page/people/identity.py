"""The person that an ID token's claims prove: name, scopes, and until when. Pure functions.

Source: OpenID Connect Core 1.0, sections 2 (ID token), 3.1.3.7 (its validation) and 5.1 (claims).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.observing.page.people.roles import SUBJECT, Roles
from mlplatform.rollouts.journal.state import appearances
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.runtime.configuration.identity_provider import IdentityProvider
from mlplatform.runtime.errors import Refused
from mlplatform.scoring.admission.clients import Client

MOST_GROUPS: Final = 2_000
MOST_NAMED: Final = 20
"""Most groups that a refusal names."""
MOST_OF_A_NAME: Final = 80
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(@[a-z0-9][a-z0-9.-]{0,63})?")
"""Pattern of a client's name, with a domain if the provider gives one; no other name has an `@`."""
_OTHER_NAMES: Final = ("preferred_username", "email", "name", "nickname")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom an identity provider has proven.

    Args:
        client: name on the platform, scopes from the groups, and the time until which the token is
            valid.
        identity: the person's identity at the provider.
        is_mapped: whether the file of roles gives this person a name.
    """

    client: Client
    identity: ProvenIdentity
    is_mapped: bool


def check_answers(claims: Mapping[str, Any], client_id: str, nonce: str) -> None:
    """Raises unless a token answers the request for which this nonce was made.

    Raises:
        Refused: the token answers another request, or was made for another client, or for several
            clients without naming this one.
    """
    claimed = claims.get("nonce")
    if not isinstance(claimed, str) or not hmac.compare_digest(claimed.encode(), nonce.encode()):
        raise Refused("the token does not answer this sign-in: its nonce is another one")
    audience, party = claims.get("aud"), claims.get("azp", client_id)
    if audience not in (client_id, [client_id]) and "azp" not in claims:
        raise Refused("the token is for several clients and says not for which: it has no azp")
    if party != client_id:
        raise Refused(f"the token was given to another client: its azp is not {client_id}")


def person(claims: Mapping[str, Any], provider: IdentityProvider, roles: Roles) -> Person:
    """The person of verified claims.

    Raises:
        Refused: the claims have no subject, no name that is valid here, no group with a role here,
            or a name like one that the file gives to another subject. The message names the problem
            and what is wanted.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
        raise Refused("the token names no subject: its claim sub is not a text in ASCII")
    name = roles.people.get(subject)
    is_mapped = name is not None
    if name is None:
        name = _name(claims, provider.name_claim, subject)
    groups = _groups(claims, provider.groups_claim)
    scopes = frozenset(s for group in groups for s in roles.groups.get(group, ()))
    if not scopes:
        known = sorted(roles.groups)
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        raise Refused(
            f"no group of {name} has a role here; groups that have one:"
            f" {', '.join(known[:MOST_NAMED])}{more}. Ask for one of them at {provider.host}"
        )
    known_as = _known_as(claims, (provider.name_claim, *_OTHER_NAMES))
    own = appearances(name, *known_as)
    if not is_mapped and (taken := alike(own, roles.people.values())):
        raise Refused(
            f"the file of roles gives the name {taken} to another subject, and {name} looks like"
            f" the same person. Give subject {subject} a name of its own there, under people"
        )
    client = Client(name, scopes, "standard", None, float(claims["exp"]))
    identity = ProvenIdentity(issuer=str(provider.url), subject=subject, known_as=known_as)
    return Person(client, identity, is_mapped)


def alike(own: frozenset[str], names: Iterable[str]) -> str:
    """The first of some names that looks like one of the person's own; empty if none does.

    Args:
        own: the forms of the person's names, from `appearances`.
    """
    return next((name for name in sorted(names) if own & appearances(name)), "")


def _name(claims: Mapping[str, Any], claim: str, subject: str) -> str:
    claimed = claims.get(claim)
    name = claimed.strip().casefold() if isinstance(claimed, str) else ""
    if len(name) > MOST_OF_A_NAME or not _NAME.fullmatch(name):
        shown = repr(claimed)[:MOST_OF_A_NAME] if claimed is not None else "not there"
        raise Refused(
            f"the claim {claim} is {shown}: a name here has letters from a to z, digits, '.', '_'"
            f" and '-', and may end in @ and a domain. MLPLATFORM_SIGN_IN_NAME_CLAIM names another"
            f" claim, or the file of roles gives subject {subject} a name under people"
        )
    return name


def _groups(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    claimed = claims.get(claim)
    listed = [claimed] if isinstance(claimed, str) else claimed
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise Refused(
            f"the token has no claim {claim} that lists groups: let the provider put it into ID"
            " tokens, or name another claim in MLPLATFORM_SIGN_IN_GROUPS_CLAIM"
        )
    if len(listed) > MOST_GROUPS:
        raise Refused(f"the claim {claim} lists {len(listed)} groups; the most is {MOST_GROUPS}")
    return tuple(listed)


def _known_as(claims: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    claimed = (claims.get(name) for name in names)
    texts = (one.strip()[:MOST_OF_A_NAME] for one in claimed if isinstance(one, str))
    return tuple(sorted({one for one in texts if one and one.isprintable()}))
