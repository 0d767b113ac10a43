"""The environment variables of this platform: a misspelt one is an error, not a default."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from mlplatform.runtime.configuration.declarations import DEFAULTS, PREFIX
from mlplatform.runtime.errors import ConfigInvalid

SETTINGS = frozenset(PREFIX + name for name in DEFAULTS)
HANDED_DOWN = frozenset({"MLPLATFORM_LIFELINE_FD", "MLPLATFORM_LISTEN_FD"})
"""From the supervisor to its children."""
OF_TESTS = re.compile(r"MLPLATFORM_(TEST_\w+|CLUSTER_CACHE|OBSERVABILITY_TOOLS|TRANSACTIONS)")
OF_SERVICES = re.compile(r"\w+_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
OF_A_PORT = re.compile(r"(tcp|udp|sctp)://.+")
"""Names, and values of names that end in PORT, that a pod is given for each service of its
namespace: one that is called mlplatform-… looks like our settings.

Source: Kubernetes, "Accessing the Service", environment variables.
"""


def check(environment: Mapping[str, str]) -> None:
    """Refuse a variable of our prefix that nothing here reads.

    Raises:
        ConfigInvalid: names it and the setting that is nearest to it, never its value.
    """
    for name in sorted(environment):
        if name.startswith(PREFIX) and not _known(name, environment[name]):
            settings = [known.removeprefix(PREFIX) for known in sorted(SETTINGS)]
            near = difflib.get_close_matches(name.removeprefix(PREFIX), settings, n=1)
            wanted = f"{PREFIX}{near[0]}" if near else "a setting that docs/settings.md names"
            raise ConfigInvalid("a variable of the environment", name, f"{wanted}, or none")


def _known(name: str, value: str) -> bool:
    ours = name in SETTINGS or name in HANDED_DOWN or OF_TESTS.fullmatch(name)
    return bool(ours or OF_SERVICES.fullmatch(name) or OF_A_PORT.fullmatch(value))
