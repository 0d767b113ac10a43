"""Variables of other programs that the platform reads or sets, or a library in it reads, once.

`docs/settings.md` is rendered from this table, beside the platform's own settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.runtime.configuration.declarations import EVERY

Content = Literal["no secret", "a secret", "a file with a secret"]


@dataclass(frozen=True, slots=True)
class OtherVariable:
    """Environment variables that belong to another program.

    Args:
        names: their names; one that ends in `*` stands for all that begin so.
        program: whose they are.
        meaning: what the platform does with them, in Markdown.
        read_by: names, in `process.ENTRIES`, of the processes that read them, themselves or by the
            program's library; beside them `supervisor`, `commands`, or a program that is started.
        set_by: names of those that set them, for themselves or for what they start.
        holds: what their values are, for those who see them.
    """

    names: tuple[str, ...]
    program: str
    meaning: str
    read_by: tuple[str, ...] = ()
    set_by: tuple[str, ...] = ()
    holds: Content = "no secret"

    def covers(self, name: str) -> bool:
        """Whether a variable is one of these."""
        return any(
            name.startswith(one[:-1]) if one.endswith("*") else name == one for one in self.names
        )


_UP: Final = ("supervisor",)
_SDK: Final = ("mlflow", "gateway", "page", "supervisor", "flow-run", "commands")

OTHERS: Final = (
    OtherVariable(
        ("PREFECT_API_AUTH_STRING",),
        "Prefect",
        "`user:password` of Prefect's server: on a cluster of a Secret, on one machine made at each"
        " start; flow runs inherit it",
        read_by=("prefect", "flows", "flow-deployments", "page", "flow-run", "commands"),
        set_by=("flows",),
        holds="a secret",
    ),
    OtherVariable(
        ("PREFECT__CONTROL_TOKEN",),
        "Prefect",
        "the secret by which a flow run shows its runner which run it is",
        read_by=("flow-run",),
        set_by=("flows",),
        holds="a secret",
    ),
    OtherVariable(
        (
            "PREFECT__FLOW_RUN_ID",
            "PREFECT__FLOW_ENTRYPOINT",
            "PREFECT__CONTROL_PORT",
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS",
        ),
        "Prefect",
        "which run a process is, and of which pinned file",
        read_by=("flow-run",),
        set_by=("flows", "flow-run"),
    ),
    OtherVariable(
        (
            "PREFECT_HOME",
            "PREFECT_API_URL",
            "PREFECT_SERVER_*",
            "PREFECT_CLIENT_*",
            "PREFECT_FLOWS_*",
            "PREFECT_RESULTS_*",
            "PREFECT_LOGGING_*",
        ),
        "Prefect",
        "keep all of it in the home folder, and its clients at this server; yours are replaced",
        read_by=("prefect", "flows", "flow-deployments", "flow-run"),
        set_by=("flows", "flow-deployments", *_UP),
    ),
    OtherVariable(
        ("MLFLOW_*", "_MLFLOW_*"),
        "MLflow",
        "where it stores everything, and whom it answers; yours are replaced",
        read_by=("mlflow",),
        set_by=("mlflow", "flows", *_UP),
    ),
    OtherVariable(
        ("KUBERNETES_SERVICE_HOST",),
        "Kubernetes",
        "shows a process that it is in a pod, where volumes decide on owners of folders",
        read_by=EVERY,
        set_by=("the kubelet",),
    ),
    OtherVariable(
        ("KUBECONFIG",),
        "kubectl",
        "the cluster, where `--kubeconfig` names none and the process is in no pod",
        read_by=("flow-run", *_UP, "commands"),
        holds="a file with a secret",
    ),
    OtherVariable(
        ("PGPASSFILE",),
        "PostgreSQL",
        "passwords of tables that `batch` and `features import` read (`docs/batch.md`); not set:"
        " `~/.pgpass`",
        read_by=("flow-run", "commands"),
        holds="a file with a secret",
    ),
    OtherVariable(
        ("PGPASSWORD",),
        "PostgreSQL",
        "password for `pg_dump` and `pg_restore` of a backup, so that no command line has it",
        read_by=("pg_dump",),
        set_by=("commands",),
        holds="a secret",
    ),
    OtherVariable(
        (
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGDATABASE",
            "PGCONNECT_TIMEOUT",
            "PGSSLMODE",
            "PGSSLROOTCERT",
        ),
        "PostgreSQL",
        "the server of `MLPLATFORM_POSTGRES`, for the same programs",
        read_by=("pg_dump",),
        set_by=("commands",),
    ),
    OtherVariable(
        ("AWS_*",),
        "AWS's SDK",
        "keys and server for each `s3://` place: bundles, files of jobs, tables, backups;"
        " `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` are secrets",
        read_by=_SDK,
        holds="a secret",
    ),
    OtherVariable(
        ("SSL_CERT_FILE", "SSL_CERT_DIR"),
        "OpenSSL",
        "the authorities that certificates of servers are checked by; not set: the machine's",
        read_by=EVERY,
    ),
    OtherVariable(
        ("TRACEPARENT",),
        "OpenTelemetry",
        "the span below which an item's work lies",
        read_by=("job-item",),
        set_by=("jobs",),
    ),
    OtherVariable(
        ("SPARK_CONF_DIR", "JAVA_HOME", "PYSPARK_PYTHON"),
        "Apache Spark",
        "the folder of `spark-defaults.conf`, Java, and the Python of executors, where retrains are"
        " joined by Spark (`docs/training.md`); not set: no such folder, the Java of the path, and"
        " this Python",
        read_by=("flow-run",),
    ),
    OtherVariable(
        ("DO_NOT_TRACK",),
        "Prefect, MLflow, Evidently",
        "nothing is sent to the makers of these libraries",
        read_by=("prefect", "flows", "mlflow", "flow-run"),
        set_by=("flows", "mlflow", "flow-run", *_UP),
    ),
    OtherVariable(
        ("ORT_DISABLE_TELEMETRY",),
        "ONNX Runtime",
        "nothing is sent to its maker",
        read_by=EVERY,
        set_by=EVERY,
    ),
    OtherVariable(
        ("ARROW_DEFAULT_MEMORY_POOL",),
        "Arrow",
        "memory that is not used any more goes back; a value of yours stays",
        read_by=EVERY,
        set_by=EVERY,
    ),
    OtherVariable(
        ("MALLOC_ARENA_MAX",),
        "the C library",
        "less memory that is held for threads",
        read_by=EVERY,
        set_by=_UP,
    ),
    OtherVariable(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        "OpenMP, OpenBLAS",
        "one thread a process: several processes share the cores",
        read_by=EVERY,
        set_by=("job-item", "flow-run", "commands", *_UP),
    ),
    OtherVariable(
        ("CUBLAS_WORKSPACE_CONFIG",),
        "NVIDIA's cuBLAS",
        "the same sums each time in fits of PyTorch on a GPU; a value of yours stays",
        read_by=("job-item", "flow-run", "commands"),
        set_by=("job-item", "flow-run", "commands"),
    ),
    OtherVariable(
        ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
        "the system's linker",
        "all that confined work takes over from an environment",
        read_by=("job-item", "flow-run", "commands"),
    ),
    OtherVariable(
        ("LC_ALL",),
        "the C library",
        "texts of confined work are UTF-8",
        read_by=("confined work",),
        set_by=("job-item", "flow-run", "commands"),
    ),
)
