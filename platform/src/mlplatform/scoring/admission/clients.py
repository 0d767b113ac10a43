"""Clients, keys and scopes: who a caller is, and what it may do."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import DAY_S
from mlplatform.scoring.admission.priorities import Priority

Operation = Literal[
    "score",
    "read",
    "labels",
    "void",
    "push",
    "any-client",
    "any-version",
    "explain",
    "metrics",
    "view",
    "review",
    "operate",
    "run",
    "approve",
]
OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)
PERSONAL: Final[frozenset[Operation]] = frozenset({"view", "review", "operate", "run", "approve"})
"""Operations of people: look, label reviewed decisions, stop and start what runs, start flows,
approve rollouts. `*` leaves these out, so that no application's key approves anything."""
ANY = "*"
FOREVER: Final = math.inf
MAX_RATE_PER_S: Final = 1_000_000
MAX_REFILL_S: Final = DAY_S

_CLIENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MODEL = re.compile(r"\*|[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """One operation on one model. `*` stands for every operation, except those of people, or for
    every model.

    `metrics` belongs to the whole installation: it needs the model `*`. `any-client` opens nothing
    by itself: `labels`, `void` and `explain` then hold for decisions of other clients, too.
    `review` does the same for the labels of a person who has it. `any-version` opens nothing
    either: `score` then holds for the version that a request names.
    """

    model: str
    operation: str

    def __str__(self) -> str:
        return f"{self.model}:{self.operation}"

    def covers(self, operation: Operation) -> bool:
        """Whether the scope is about the operation, on whichever model."""
        return self.operation == operation or (self.operation == ANY and operation not in PERSONAL)


EVERYTHING: Final = frozenset({Scope(ANY, ANY)})


def parse_scope(text: str) -> Scope:
    """The scope in a text of the form `model:operation`.

    Raises:
        ConfigInvalid: the text has another form.
    """
    model, _, operation = text.partition(":")
    if not _MODEL.fullmatch(model) or operation not in (*OPERATIONS, ANY):
        near = difflib.get_close_matches(operation, OPERATIONS, n=1)
        nearest = f"; the nearest is {model}:{near[0]}" if near else ""
        wanted = f"model:operation, operation one of {', '.join(OPERATIONS)} or {ANY}{nearest}"
        raise ConfigInvalid("scope", text, wanted)
    return Scope(model, operation)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit: requests a second, and the most at once after a pause."""

    rate_per_s: float
    burst: int


def rate_limit(rate_per_s: float | None, burst: int | None) -> RateLimit | None:
    """A limit with its burst, by default the requests of one second; None for no limit.

    Raises:
        ConfigInvalid: the rate or the burst is not valid, or there is a burst without a rate.
    """
    if rate_per_s is None:
        if burst is not None:
            raise ConfigInvalid("burst", burst, "a rate beside it")
        return None
    if not 0 < rate_per_s <= MAX_RATE_PER_S:
        raise ConfigInvalid("rate", rate_per_s, f"more than 0, at most {MAX_RATE_PER_S} a second")
    if burst is not None and not 1 <= burst <= MAX_RATE_PER_S:
        raise ConfigInvalid("burst", burst, f"1 to {MAX_RATE_PER_S}")
    limit = RateLimit(float(rate_per_s), math.ceil(rate_per_s) if burst is None else burst)
    if limit.burst / limit.rate_per_s > MAX_REFILL_S:
        raise ConfigInvalid("burst", limit.burst, "one that the rate refills within a day")
    return limit


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is stored: its digest, never the secret.

    Args:
        id: the first digits of the digest, by which people name the key.
        digest: SHA-256 of the secret, hexadecimal.
        client: the client; it may have several keys, so that a key can be replaced without a gap.
    """

    id: str
    digest: str
    client: str
    scopes: frozenset[Scope]
    priority: Priority
    limit: RateLimit | None
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def is_live(self, now_ms: int) -> bool:
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


def check_client(name: object, key: str = "name") -> str:
    """The name, if it is a text that may be a client's.

    Args:
        key: the name of the option or field, for the message.

    Raises:
        ConfigInvalid: the name is not allowed.
    """
    # Names have no slash and no colon, which separate records, idempotency keys and token subjects.
    if not isinstance(name, str) or not _CLIENT.fullmatch(name):
        raise ConfigInvalid(key, name, "lower-case letters, digits, '.', '_' and '-', up to 64")
    return name


@dataclass(frozen=True, slots=True)
class Client:
    """A caller who has proven who it is, and until when the proof holds.

    Args:
        until_s: end of the proof's validity, epoch seconds.
    """

    name: str
    scopes: frozenset[Scope]
    priority: Priority
    limit: RateLimit | None
    until_s: float = FOREVER
    _answers: dict[tuple[str, str], bool] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def may(self, model: str, operation: Operation) -> bool:
        """Whether one of its scopes covers the operation on the model; `*` stands for the whole
        installation."""
        answer = self._answers.get((model, operation))
        if answer is None:
            answer = any(
                scope.model in (model, ANY) and scope.covers(operation) for scope in self.scopes
            )
            if len(self._answers) < 256:  # names come from outside: bounded
                self._answers[model, operation] = answer
        return answer

    def may_on_some(self, operation: Operation) -> bool:
        """Whether one of its scopes covers the operation on any model."""
        return any(scope.covers(operation) for scope in self.scopes)

    def has_scope_on(self, model: str) -> bool:
        """Whether any of its scopes is about the model."""
        return any(scope.model in (model, ANY) for scope in self.scopes)

    def may_stop(self, model: str) -> bool:
        """Whether it may stop what runs of a model, and start it again; who may start flows may do
        this."""
        return self.may(model, "operate") or self.may(model, "run")

    @property
    def is_person(self) -> bool:
        """Whether it may do something that only people do."""
        return any(self.may_on_some(operation) for operation in PERSONAL)


def directory(keys: Iterable[Key], now_ms: int) -> Mapping[bytes, Client]:
    """Digest of a secret → the client that it proves, for every live key.

    A client has one priority and one limit, those of its newest live key. Otherwise a second key
    would give a second allowance.
    """
    by_client: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        if key.is_live(now_ms):
            by_client[key.client].append(key)
    found = {}
    for name, owned in by_client.items():
        newest = max(owned, key=lambda key: (key.created_ms, key.id))
        for key in owned:
            until_s = FOREVER if key.expires_ms is None else key.expires_ms / 1000
            client = Client(name, key.scopes, newest.priority, newest.limit, until_s)
            found[bytes.fromhex(key.digest)] = client
    return found


def way_to_scope(client: str, operation: Operation, model: str) -> str:
    """The way out for a client without a scope, in words."""
    names = f"--name {shlex.quote(client)} --model {shlex.quote(model)}"
    return f"the operator makes a key with it: `mlplatform keys create {names} --scope {operation}`"
