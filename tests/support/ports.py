"""Ports of this machine for the servers of a test.

They lie below those that the kernel lends to connections: a port that it says is free may be some
connection's, or another test's, before the server that is to have it has started.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

PORTS: Final = range(20_000, 30_000)


def _offered() -> Iterator[int]:
    """In tests of several processes each has its own: none is offered by two of them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = PORTS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    # processes that know nothing of each other begin at different places
    first = random.SystemRandom().randrange(len(mine))
    return itertools.cycle([*mine[first:], *mine[:first]])


_OFFERED: Final = _offered()
"""One after the other, so that none comes again soon."""


def free_port() -> int:
    """A port on which nobody listens."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many of them.

    Raises:
        AssertionError: there are not so many.
    """
    tried = itertools.islice(_OFFERED, len(PORTS))
    found = list(itertools.islice(filter(_is_free, tried), count))
    assert len(found) == count, f"{len(found)} of {count} ports are free"
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
