"""Sessions of Apache Spark: the installed one, configured as its users do, and closed by default.

Master, executors and memory come from `SPARK_CONF_DIR/spark-defaults.conf`; without that file Spark
runs on this machine's cores. Only what keeps other machines and users out is set here, where the
file does not say otherwise: no web page, a secret for every connection, encrypted traffic, and
loopback addresses alone where the master is local.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable, Unavailable

NAME: Final = "mlplatform training join"
DEFAULTS: Final[Mapping[str, str]] = {
    "spark.ui.enabled": "false",
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
}
LOCAL: Final[Mapping[str, str]] = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
NEEDED: Final[Mapping[str, str]] = {
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.caseSensitive": "true",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
}
"""Settings that the join relies on; the file can't change them. A log takes no progress bar."""
JAVA: Final = "the folder of a Java runtime, version 17 or later (docs/training.md)"
STARTS: Final = (
    "Java 17 or later, and a name for this process's user in /etc/passwd; Java's own error stands"
    " above (docs/training.md)"
)
SHOWN: Final = 500
"""Most characters of Spark's error in a message."""
_CAUSE: Final = re.compile(r"(?:: |Caused by: )?([\w.$]+(?:Error|Exception): .*)")


@contextmanager
def spark_session() -> Iterator[SparkSession]:
    """A session that ends with the block, and its executors with it.

    Raises:
        ConfigInvalid: Java is not installed here, or can't start Spark.
        Unavailable: the master did not answer.
    """
    gateway = _gateway()
    conf = SparkConf(_jvm=gateway.jvm).setAppName(NAME)
    master = conf.get("spark.master", None) or "local[*]"
    own = LOCAL if master.startswith("local") else _own_address()
    for name, value in {**DEFAULTS, **own}.items():
        conf.setIfMissing(name, value)
    for name, value in NEEDED.items():
        conf.set(name, value)
    try:
        context = SparkContext(gateway=gateway, conf=conf)
    except Py4JError as error:
        problem = f"Spark did not start with spark.master={master}: {cause_of(error)}"
        raise Unavailable(f"{problem}; docs/training.md says what it needs") from error
    if "PYSPARK_PYTHON" not in os.environ:  # else any python3 of the path, without the platform
        context.pythonExec = sys.executable
    with SparkSession(context) as session:
        yield session


def cause_of(error: Exception) -> str:
    """The line of an error of Spark that names its cause, Python's or Java's, cut to what a message
    takes; the log has all of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [found[1] for line in lines if (found := _CAUSE.match(line))]
    return [*lines[:1], type(error).__name__, *causes][-1 if causes else 0][:SHOWN]


def _own_address() -> Mapping[str, str]:
    """Where workers find this process: by its address, since they can't look up a pod's name."""
    with contextlib.suppress(OSError):  # a machine may not know its own name; Spark has a guess too
        address = socket.gethostbyname(socket.gethostname())
        if not ip_address(address).is_loopback:
            return {"spark.driver.host": address}
    return {}


@functools.cache
def _gateway() -> Any:
    """Spark's Java process, which ends with this one; it reads Spark's configuration once."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(os.path.join(home, "bin", "java") if home else "java")
    if java is None:
        raise ConfigInvalid("JAVA_HOME", home, JAVA)
    try:
        return launch_gateway()
    except PySparkRuntimeError as error:
        raise ConfigUnusable(java, "Spark did not start with it", STARTS) from error
