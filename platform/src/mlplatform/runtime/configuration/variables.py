"""The text of each setting in an environment, parsed by its type; every error is reported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlplatform.runtime.configuration import kinds
from mlplatform.runtime.configuration.declarations import CONSTANTS, PREFIX, SETTINGS, Setting
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.storage.addresses import without_secrets

HANDED_DOWN = frozenset({"MLPLATFORM_LIFELINE_FD", "MLPLATFORM_LISTEN_FD"})
"""Variables that the supervisor hands down to its children. The names stay, because a running
supervisor may start children of a newer release."""
OF_TESTS = re.compile(r"MLPLATFORM_(TEST_\w+|CLUSTER_CACHE|OBSERVABILITY_TOOLS|TRANSACTIONS)")
OF_SERVICES = re.compile(r"\w+_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
OF_A_PORT = re.compile(r"(tcp|udp|sctp)://.+")
"""Names, and values of names that end in PORT, that a pod gets for each service of its namespace:
those of a service called mlplatform-… look like our settings.

Source: Kubernetes, "Accessing the Service", environment variables.
"""
_BY_VARIABLE = {s.variable: s for s in SETTINGS}


def parse(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[ConfigInvalid]]:
    """Name of a setting → its value, None if it is not set or wrong; and the errors."""
    problems = list(unknown(environment))
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            values[setting.name] = value(setting, environment)
        except ConfigInvalid as error:
            values[setting.name] = None
            problems.append(error)
    problems += _missing_companions(environment)
    problems += _missing_in_cluster(environment)
    return values, problems


def value(setting: Setting, environment: Mapping[str, str]) -> Any:
    """The value of one setting; None if it is empty and may be.

    Raises:
        ConfigInvalid: the value is wrong; the message names the variable, its value and what is
            wanted.
    """
    text = environment.get(setting.variable, setting.default)
    if text == setting.default == "":
        return None
    try:
        return kinds.parse(setting.type, text)
    except (msgspec.ValidationError, UnicodeError):  # they may show the value
        wanted = kinds.kind_in_words(setting.type)
        default = f", or unset it: the default is {setting.default}" if setting.default else ""
        raise ConfigInvalid(setting.variable, without_secrets(text), wanted + default) from None


def unknown(environment: Mapping[str, str]) -> Iterator[ConfigInvalid]:
    """Variables of our prefix that nothing here reads, with the settings nearest to them.

    Their values are not shown, because nobody knows what they are.
    """
    for name in sorted(environment):
        if name.startswith(PREFIX) and not _is_known(name, environment[name]):
            constant = CONSTANTS.get(name.removeprefix(PREFIX))
            if constant is not None:
                fixed = f"no such variable: it is {constant} in every installation; remove it"
                yield ConfigInvalid("a variable of the environment", name, fixed)
                continue
            settings = sorted(s.name for s in SETTINGS)
            near = difflib.get_close_matches(name.removeprefix(PREFIX), settings, n=1)
            wanted = f"{PREFIX}{near[0]}" if near else "a setting that docs/settings.md names"
            yield ConfigInvalid("a variable of the environment", name, f"{wanted}, or remove it")


def _missing_companions(environment: Mapping[str, str]) -> Iterator[ConfigInvalid]:
    """The errors of settings that must stand beside others and do not."""

    def is_given(needed: Setting) -> bool:
        instead = environment.get(PREFIX + needed.unless) if needed.unless else ""
        return bool(environment.get(needed.variable) or instead)

    lacking = {
        PREFIX + other: setting
        for setting in reversed(SETTINGS)
        for other in setting.needs
        if environment.get(setting.variable) and not is_given(_BY_VARIABLE[PREFIX + other])
    }
    for name, setting in lacking.items():
        wanted = f"{kinds.kind_in_words(_BY_VARIABLE[name].type)}, as {setting.variable} is set"
        yield ConfigInvalid(name, "", wanted)


def _missing_in_cluster(environment: Mapping[str, str]) -> Iterator[ConfigInvalid]:
    """The errors of servers that a cluster must name, so that none is left out by oversight."""
    if environment.get(f"{PREFIX}PROFILE") != "cluster":
        return
    lines = [
        f"\n  {s.variable}: {kinds.kind_in_words(s.type)} ({s.meaning})"
        for s in SETTINGS
        if s.in_cluster and not environment.get(s.variable)
        if not s.unless or not environment.get(PREFIX + s.unless)
    ]
    if lines:
        wanted = f"these too, which are not set (docs/cluster.md):{''.join(lines)}"
        yield ConfigInvalid(f"{PREFIX}PROFILE", "cluster", wanted)


def _is_known(name: str, text: str) -> bool:
    ours = name in _BY_VARIABLE or name in HANDED_DOWN or OF_TESTS.fullmatch(name)
    constant = CONSTANTS.get(name.removeprefix(PREFIX))
    if constant is not None:
        return text in ("", constant)
    return bool(ours or OF_SERVICES.fullmatch(name) or OF_A_PORT.fullmatch(text))
