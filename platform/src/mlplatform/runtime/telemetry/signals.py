"""Every metric, span, attribute and log field that the processes in a request's path emit.

This is the only list: code makes its metrics and spans from it and can emit nothing else,
docs/signals.md is rendered from it, and dashboards and alerts are checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Process = Literal[
    "gateway", "predictor", "worker", "exporter", "supervisor", "flows", "jobs", "mlflow",
    "page", "events",
]  # fmt: skip
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and what bounds its values.

    Args:
        values: every possible value; empty if the values depend on the installation.
        bound: what limits the number of values, if they are not listed.
    """

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a kind of process.

    Args:
        name: the declared name; a counter gets the suffix `_total`, and a histogram its suffixes.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """An attribute of spans; `source` is the convention that it follows, or this platform.

    Each is there once, so that it is found in a span by identity.
    """

    name: str
    meaning: str
    source: str = "mlplatform"


@dataclass(frozen=True, slots=True)
class SpanKind:
    """A span.

    Args:
        of: the process that does the work.
    """

    name: str
    kind: Literal["SERVER", "CLIENT", "INTERNAL", "PRODUCER", "CONSUMER"]
    meaning: str
    of: Process = "gateway"


MODEL: Final = Label("model", bound="model folders of the installation")
SERVICE: Final = Label("service", bound="arms that routes name, at most six a model")
STATUS: Final = Label("status", bound="HTTP status codes that the OpenAPI document declares")
PRIORITY: Final = Label("priority", ("critical", "standard", "background", ""))
PROTOCOL: Final = Label("protocol", ("rest", "grpc"))
STEP: Final = Label("step", ("champion", "challenger", "previous", "variant"))
ARM: Final = Label("arm", ("champion", "challenger", "variant"))
FAILURES: Final = (
    "deadline", "unavailable", "invalid_output", "breaker_open", "volume_limit", "queue_full",
    "bulkhead", "stalled", "killed",
)  # fmt: skip

_LATENCY_S = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
    0.075, 0.1, 0.25, 1.0,
)  # fmt: skip
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

REQUESTS: Final = Metric(
    "mlplatform_gateway_requests", "counter", "requests",
    "HTTP requests and gRPC calls by operation and status.",
    (
        Label("operation", bound="operations of the API; `unknown` for other paths"),
        STATUS,
        Label("model", bound="model folders of the installation; empty where it is about none"),
    ),
)  # fmt: skip
DECISIONS: Final = Metric(
    "mlplatform_gateway_decisions", "counter", "decisions",
    "Decisions recorded, by who made them.",
    (
        MODEL,
        Label("answered_by",
              ("champion", "challenger", "previous", "variant", "small_model", "rules", "default")),
        Label("decision", bound="outcomes of the model"),
        Label("is_alert", ("true", "false")),
    ),
)  # fmt: skip
DEGRADED: Final = Metric(
    "mlplatform_gateway_degraded", "counter", "decisions",
    "Decisions made without all that should be there (killed: the model is switched off).",
    (MODEL, Label("reason", (*FAILURES, "features"))),
)  # fmt: skip
STEP_FAILURES: Final = Metric(
    "mlplatform_gateway_step_failures", "counter", "calls",
    "Predictors that gave no score.", (MODEL, STEP, Label("reason", FAILURES)),
)  # fmt: skip
REASONS_OMITTED: Final = Metric(
    "mlplatform_gateway_reasons_omitted", "counter", "decisions",
    "Alerts answered without their reasons.",
    (MODEL, Label("reason", (*FAILURES, "not_additive"))),
)  # fmt: skip
LATE: Final = Metric(
    "mlplatform_gateway_late", "counter", "decisions",
    "Answers that were durable after the deadline.", (MODEL,),
)  # fmt: skip
SHADOW_DROPPED: Final = Metric(
    "mlplatform_gateway_shadow_dropped", "counter", "copies",
    "Shadow copies that were not sent, or whose records were not written.",
    (MODEL, Label("why", ("full", "over", "stopped", "unrecorded"))),
)  # fmt: skip
LATENCY: Final = Metric(
    "mlplatform_gateway_latency_seconds", "histogram", "seconds",
    "From a request's first byte to its durable decision.", (MODEL,), _LATENCY_S,
)  # fmt: skip
SCORE: Final = Metric(
    "mlplatform_gateway_score", "histogram", "probability",
    "Calibrated scores that decided, by assigned arm, without degraded answers and named versions.",
    (MODEL, ARM),
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0),
)  # fmt: skip
FEATURE_AGE: Final = Metric(
    "mlplatform_gateway_feature_age_seconds", "histogram", "seconds",
    "Age, in event time, of the features of a view that a decision used.",
    (MODEL, Label("view", bound="feature views of the model")),
    (60.0, 300.0, 900.0, 3600.0, 21600.0, 43200.0, 86400.0, 129600.0, 172800.0, 259200.0, 604800.0),
)  # fmt: skip
FEATURES_MISSING: Final = Metric(
    "mlplatform_gateway_features_missing", "counter", "decisions",
    "Decisions made without a feature, and why it was not there.",
    (
        MODEL,
        Label("feature", bound="features that the model's inputs read"),
        Label("cause", ("missing", "stale", "unavailable")),
    ),
)  # fmt: skip
FEATURES_STALE_SHARE: Final = Metric(
    "mlplatform_gateway_features_stale_share", "gauge", "share",
    "Decisions of the last minute for which features were stale or unavailable.", (MODEL,),
)  # fmt: skip
VIEW_AGE: Final = Metric(
    "mlplatform_gateway_view_age_share", "gauge", "share",
    "Age of a feature view's newest snapshot, divided by how long it is valid; over 1 it is stale.",
    (MODEL, Label("view", bound="feature views of the model")),
)  # fmt: skip
COMMIT_RECORDS: Final = Metric(
    "mlplatform_gateway_commit_records", "histogram", "records",
    "Records in one commit of the decision log.", (), _POWERS,
)  # fmt: skip
GENERATION: Final = Metric(
    "mlplatform_gateway_routes_generation", "gauge", "generation",
    "Generation of routes applied.", (MODEL,),
)  # fmt: skip
BREAKER: Final = Metric(
    "mlplatform_gateway_breaker_state", "gauge", "state",
    "0 closed, 1 half open, 2 open.", (MODEL, SERVICE),
)  # fmt: skip
VOLUME_STOPPED: Final = Metric(
    "mlplatform_gateway_volume_stopped", "gauge", "1",
    "1 while the arm is not asked any more, as its bundle raised alerts on too many customers.",
    (MODEL, SERVICE),
)  # fmt: skip
FOLDER_UNREAD: Final = Metric(
    "mlplatform_gateway_folder_unread", "gauge", "1",
    "1 while a model's folder can't be used, or is gone; the last good one serves.", (MODEL,),
)  # fmt: skip
ADMISSION: Final = Metric(
    "mlplatform_gateway_admission", "counter", "requests",
    "Requests let in or refused, and why.",
    (
        Label("outcome", ("admitted", "unauthenticated", "forbidden", "shed", "client-rate",
                          "model-rate")),
        PRIORITY,
    ),
)  # fmt: skip
STORE_FAILURES: Final = Metric(
    "mlplatform_gateway_admission_store_failures", "counter", "calls",
    "Times the shared store was late or failed.", (Label("of", ("keys", "tokens")),),
)  # fmt: skip
KEY_CLAIMS: Final = Metric(
    "mlplatform_gateway_key_claims", "counter", "claims",
    "Idempotency keys that this gateway asked the other gateways' store about, by what came of it.",
    (
        Label("outcome", ("claimed", "taken_over", "repeated", "in_flight", "alone", "refused",
                          "unsettled", "lost", "voided", "dropped")),
    ),
)  # fmt: skip
KEY_CLAIMS_WAITING: Final = Metric(
    "mlplatform_gateway_key_claims_waiting", "gauge", "keys",
    "Keys that wait for their store, to be settled or released there.",
)  # fmt: skip
CONNECTIONS_REFUSED: Final = Metric(
    "mlplatform_gateway_connections_refused", "counter", "connections",
    "Connections ended for a limit.",
    (
        Label("reason", ("too-many-connections", "head-too-large", "malformed-http",
                         "slow-request", "slow-reader")),
    ),
)  # fmt: skip
TOKENS_REFUSED: Final = Metric(
    "mlplatform_gateway_tokens_refused", "counter", "tokens",
    "Tokens of the issuer that were not accepted.",
    (
        Label("reason", ("algorithm", "audience", "claims", "expired", "issuer", "malformed",
                         "not-yet", "signature", "client-name", "invalid", "keys-awaited", "kind",
                         "too-long", "unknown-key")),
    ),
)  # fmt: skip
KEY_FETCHES: Final = Metric(
    "mlplatform_gateway_issuer_key_fetches", "counter", "calls",
    "Fetches of the issuer's keys.", (Label("outcome", ("fetched", "failed")),),
)  # fmt: skip
TRACES: Final = Metric(
    "mlplatform_gateway_traces", "counter", "requests",
    "Requests whose spans were asked for: sent, dropped as too many waited, or not taken.",
    (Label("outcome", ("exported", "dropped", "failed")),),
)  # fmt: skip
CLOCK_OFFSET: Final = Metric(
    "mlplatform_clock_offset_seconds", "gauge", "seconds",
    "How far the kernel's clock is from its time source, as the kernel says; not on macOS.",
)  # fmt: skip
CLOCK_SYNCHRONISED: Final = Metric(
    "mlplatform_clock_synchronised", "gauge", "1",
    "1 while something keeps the kernel's clock on time, 0 where nothing does; not on macOS.",
)  # fmt: skip


_WRITER = Label("writer", bound="gateway processes that write the decision log now")
WINDOWS_LACK: Final = Metric(
    "mlplatform_windows_lack_records", "gauge", "records",
    "Records of this process's log that windows on a server do not hold yet.", (MODEL, _WRITER),
)  # fmt: skip
WINDOWS_BEHIND: Final = Metric(
    "mlplatform_windows_behind_seconds", "gauge", "seconds",
    "How long windows on a server have lacked a record of this process.", (MODEL, _WRITER),
)  # fmt: skip


def _log(name: str, kind: Kind, unit: str, meaning: str) -> Metric:
    return Metric(f"mlplatform_log_{name}", kind, unit, meaning)


LOG_COUNTS: Final = {
    "accepted": _log("accepted", "counter", "records",
                     "Records whose answer could be given: written, spilled or declared unlogged."),
    "recovered": _log("recovered", "counter", "records",
                      "Spilled records taken over from a process that ended."),
    "written": _log("written", "counter", "records",
                    "Records in the decision log, at once or by catching up."),
    "spilled": _log("spilled", "counter", "records", "Records that went into the spill first."),
    "unlogged": _log("unlogged", "counter", "records",
                     "Answers given without a record, as their model declares."),
    "refused": _log("refused", "counter", "records",
                    "Records that went nowhere, whose answer was not given."),
    "repeated": _log("repeated", "counter", "records",
                     "Records not written because their key was answered before."),
    "conflicts": _log("conflicts", "counter", "records",
                      "Spilled decisions whose key the log had answered otherwise; "
                      "they are voided."),
    "waiting": _log("waiting", "gauge", "records",
                    "Records in the spill now: accepted + recovered = written + waiting "
                    "+ unlogged."),
    "waiting_bytes": _log("waiting_bytes", "gauge", "bytes",
                          "Size of the records in the spill now."),
}  # fmt: skip
"""Name of a count in decisions/spill/writer.py → its metric."""

_PREDICTOR_SERVICE = Label("service", bound="the one name of this process")
PREDICTOR_REQUESTS: Final = Metric(
    "mlplatform_predictor_requests", "counter", "requests",
    "Inference requests, answered or refused.", (_PREDICTOR_SERVICE, PROTOCOL),
)  # fmt: skip
PREDICTOR_ERRORS: Final = Metric(
    "mlplatform_predictor_errors", "counter", "requests",
    "Inference requests that were not answered with scores, by HTTP status.",
    (_PREDICTOR_SERVICE, PROTOCOL, STATUS),
)  # fmt: skip
PREDICTOR_LATENCY: Final = Metric(
    "mlplatform_predictor_latency_seconds", "histogram", "seconds",
    "From the headers of an answered inference request to its answer.",
    (_PREDICTOR_SERVICE, PROTOCOL),
    (*(100e-6 * 2**doubling for doubling in range(14)), 2.5, 5.0),
)  # fmt: skip
PREDICTOR_BATCH: Final = Metric(
    "mlplatform_predictor_batch_rows", "histogram", "rows",
    "Rows scored in one call of the model.", (_PREDICTOR_SERVICE,), (*_POWERS, 4096),
)  # fmt: skip
PREDICTOR_READY: Final = Metric(
    "mlplatform_predictor_ready", "gauge", "1",
    "1 while the predictor takes inference requests.", (_PREDICTOR_SERVICE,),
)  # fmt: skip
PREDICTOR_DEPTH: Final = Metric(
    "mlplatform_predictor_queue_depth", "gauge", "requests",
    "Requests that wait for the model.", (_PREDICTOR_SERVICE,),
)  # fmt: skip
PREDICTOR_WARM_UP: Final = Metric(
    "mlplatform_predictor_warm_up_seconds", "gauge", "seconds",
    "The model's call at warm-up, by rows, where it runs and on which accelerator.",
    (
        _PREDICTOR_SERVICE,
        Label("rows", bound="sizes of batches at warm-up"),
        Label("mode", bound="where the model runs, set at start"),
        Label("accelerator", ("cpu", "cuda", "tensorrt")),
    ),
)  # fmt: skip

WORKER_MESSAGES: Final = Metric(
    "mlplatform_worker_messages", "counter", "messages",
    "Messages committed, by what became of them.",
    (MODEL, Label("outcome", ("scored", "dead_letter"))),
)  # fmt: skip
WORKER_GIVEN_UP: Final = Metric(
    "mlplatform_worker_batches_given_up", "counter", "batches",
    "Batches that are read again.", (MODEL, Label("reason", ("unavailable", "fenced"))),
)  # fmt: skip
WORKER_RETRIES: Final = Metric(
    "mlplatform_worker_retries", "counter", "requests",
    "Requests to the gateway that were repeated.",
    (MODEL, Label("reason", bound="problem types, statuses, kinds of broken connections")),
)  # fmt: skip
WORKER_LAG: Final = Metric(
    "mlplatform_worker_lag_messages", "gauge", "messages",
    "Messages that wait in this worker's partitions.", (MODEL,),
)  # fmt: skip
_OF_TOPIC: Final = (
    MODEL, Label("view", bound="external views of the model that have a topic"),
    Label("topic", bound="one of each such view"),
    Label("partition", bound="partitions of the topic that this worker reads"),
)  # fmt: skip
STREAM_LAG: Final = Metric(
    "mlplatform_feature_stream_lag_messages", "gauge", "messages",
    "Values of a topic that the online store does not have yet.", _OF_TOPIC,
)  # fmt: skip
STREAM_BEHIND: Final = Metric(
    "mlplatform_feature_stream_behind_seconds", "gauge", "seconds",
    "How long a value has waited for the online store, at most; 0: none waits.", _OF_TOPIC,
)  # fmt: skip
_READ_TOPIC: Final = (
    MODEL, Label("topic", bound="the model's topic of requests, and those of its external views"),
)  # fmt: skip
TOPIC_DROPPED: Final = Metric(
    "mlplatform_topic_dropped_messages", "counter", "messages",
    "Messages that a topic dropped before this worker read them, at most.", _READ_TOPIC,
)  # fmt: skip
TOPIC_DROPPED_FOUND: Final = Metric(
    "mlplatform_topic_dropped_timestamp_seconds", "gauge", "seconds",
    "Unix time at which the latest loss of messages was found; 0: none is known.", _READ_TOPIC,
)  # fmt: skip
WORKER_IN_WORK: Final = Metric(
    "mlplatform_worker_in_work_messages", "gauge", "messages",
    "Messages read and not committed.", (MODEL,),
)  # fmt: skip
WORKER_TRACES: Final = Metric(
    "mlplatform_worker_traces", "counter", "batches",
    "Batches whose spans were asked for: sent, dropped as too many waited, or not taken.",
    (Label("outcome", ("exported", "dropped", "failed")),),
)  # fmt: skip
WORKER_BATCH: Final = Metric(
    "mlplatform_worker_batch_seconds", "histogram", "seconds",
    "From a batch's first message read to its commit.", (MODEL,),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)  # fmt: skip

PHASES: Final = (
    "deploying", "shadow", "awaiting_approval", "canary", "promoted", "confirmed", "superseded",
    "rolled_back",
)  # fmt: skip
_INPUT = Label("input", bound="`drift.inputs` of the model, and `score`")


def _state(name: str, unit: str, meaning: str, *labels: Label, kind: Kind = "gauge") -> Metric:
    return Metric(f"mlplatform_{name}", kind, unit, meaning, labels)


ROUTES_GENERATION: Final = _state(
    "routes_generation", "generation", "Generation of routes that gateways are to apply.", MODEL
)
ROUTES_SHARE: Final = _state(
    "routes_share", "share", "Share of the assignment units that an arm answers.", MODEL, ARM
)
MODEL_KILLED: Final = _state(
    "model_killed", "1", "1 while a person has switched the model off: no version is asked.", MODEL
)
EMERGENCY_UNCONFIRMED: Final = _state(
    "emergency_unconfirmed", "1",
    "1 while an emergency promotion waits for a second person: after a day it is undone.", MODEL,
)  # fmt: skip
ROLLOUT_PHASE: Final = _state(
    "rollout_phase", "1", "1 for the phase of the model's newest rollout, 0 for the others.",
    MODEL, Label("phase", PHASES),
)  # fmt: skip
ROLLOUT_SINCE: Final = _state(
    "rollout_phase_since_seconds", "seconds",
    "Unix time at which the newest rollout's phase, or its canary step, began; later by the time "
    "in which it was paused or frozen.", MODEL,
)  # fmt: skip
ROLLOUT_PASS: Final = _state(
    "rollout_pass_time_seconds", "seconds",
    "Unix time of the last pass over the model's rollouts that came to its end.", MODEL,
)  # fmt: skip
ROLLOUT_COUNTS: Final = _state(
    "rollout_step_counts", "1",
    "What the last pass judged the present step by: of each arm. A shadow's differences are "
    "its flips among its pairs.",
    MODEL, ARM,
    Label("of", ("units", "requests", "failures", "answers", "alerts", "pairs", "flips")),
)  # fmt: skip
DRIFT_CHECK: Final = _state(
    "drift_check_time_seconds", "seconds", "Unix time of the last drift check that had a verdict.",
    MODEL,
)  # fmt: skip
DRIFT_VERDICT: Final = _state(
    "drift_verdict", "1", "1 for the last drift check's verdict, 0 for the others.",
    MODEL, Label("verdict", ("steady", "drifted", "undecided")),
)  # fmt: skip
DRIFT_UNDECIDED: Final = _state(
    "drift_undecided_since_seconds", "seconds",
    "Unix time since which all drift checks are undecided; no value while they decide.", MODEL,
)  # fmt: skip
DRIFT_PSI: Final = _state(
    "drift_psi", "1", "Population stability index of the newest window.", MODEL, _INPUT
)
DRIFT_PSI_LIMIT: Final = _state(
    "drift_psi_limit", "1", "Limit of the index, by the newest window's size.", MODEL, _INPUT
)
DRIFT_DISTANCE: Final = _state(
    "drift_distance", "standard deviations", "Wasserstein distance of the newest window.",
    MODEL, _INPUT,
)  # fmt: skip
DRIFT_DISTANCE_LIMIT: Final = _state(
    "drift_distance_limit", "standard deviations",
    "Limit of the distance, by the newest window's size.", MODEL, _INPUT,
)  # fmt: skip
DRIFT_MISSING: Final = _state(
    "drift_missing_share", "share", "Share of the newest window that lacks the input.",
    MODEL, _INPUT,
)  # fmt: skip
_INCIDENT_KIND = Label("kind", ("drift", "performance", "data fault"))
INCIDENT: Final = _state(
    "drift_incident", "1", "1 for the state of the model's incident that is not closed.",
    MODEL, _INCIDENT_KIND, Label("state", ("open", "claimed", "answered")),
)  # fmt: skip
INCIDENT_SINCE: Final = _state(
    "drift_incident_since_seconds", "seconds", "Unix time at which the incident was opened.",
    MODEL, _INCIDENT_KIND,
)  # fmt: skip
LABELS_MATURED: Final = _state(
    "labels_matured_decisions", "decisions",
    "Decisions of the last drift check's days whose label is mature.", MODEL,
)  # fmt: skip
LABELS_KNOWN: Final = _state(
    "labels_positive_decisions", "decisions", "Those of them that turned out positive.", MODEL
)
LABELS_LATE: Final = _state(
    "labels_late_share", "share",
    "Positive labels of those days that came after the maturity that the model "
    "declares.", MODEL,
)  # fmt: skip
LABEL_NEWEST: Final = _state(
    "label_newest_time_seconds", "seconds", "Event time at which the newest label came.", MODEL
)
PRECISION: Final = _state(
    "outcome_precision", "share", "Share of alerts that were right, on matured labels.", MODEL
)
RECALL: Final = _state(
    "outcome_recall", "share", "Share of positives that raised an alert, on matured labels.", MODEL
)
WATERMARK: Final = _state(
    "log_watermark_seconds", "seconds",
    "Event time up to which a living writer has nothing left to append.", _WRITER,
)  # fmt: skip
WRITER_RECORDS: Final = _state(
    "log_writer_records", "records", "Number of a living writer's last record in the log.", _WRITER
)
EVENT_TIME: Final = _state(
    "event_time_seconds", "seconds",
    "Now in event time: the wall clock, or how far recorded traffic has come.",
)  # fmt: skip
HOME_FREE: Final = _state(
    "home_free_bytes", "bytes", "What may still be written to the disk of the home folder."
)
HOME_SIZE: Final = _state("home_size_bytes", "bytes", "Size of the disk of the home folder.")
REFUSALS: Final = _state(
    "refusals",
    "refusals",
    "What was refused in the last day and kept in `audit/`.",
    Label("door", bound="surfaces: listeners, and commands that take something from people"),
)
_RECEIVER = Label("receiver", bound="receivers of the installation, at most 16")
EVENTS_WAITING: Final = _state(
    "events_lag", "events",
    "Events that a receiver has not got, at most 2000; some may be of types that it does not want.",
    _RECEIVER,
)  # fmt: skip
EVENTS_LATE: Final = _state(
    "events_lag_seconds", "seconds",
    "Wall time since the oldest event that a receiver has not got; 0 where it has all.", _RECEIVER,
)  # fmt: skip
EVENTS_DELIVERED: Final = _state(
    "events_delivered", "events", "Events that a receiver took.", _RECEIVER, kind="counter"
)
EVENTS_FAILED: Final = _state(
    "events_delivery_failures", "attempts", "Attempts that a receiver did not take.",
    _RECEIVER, kind="counter",
)  # fmt: skip
STATE_UNREAD: Final = _state(
    "exporter_read_failures", "reads", "Times that a part of the state could not be read.",
    Label("of", ("routes", "incidents", "log", "measured", "disk", "refusals", "events")),
    kind="counter",
)  # fmt: skip

METRICS: Final[dict[Process, tuple[Metric, ...]]] = {
    "gateway": (
        REQUESTS, DECISIONS, DEGRADED, STEP_FAILURES, REASONS_OMITTED, LATE, SHADOW_DROPPED,
        LATENCY, SCORE, FEATURE_AGE, FEATURES_MISSING, FEATURES_STALE_SHARE, VIEW_AGE,
        COMMIT_RECORDS, GENERATION, BREAKER, VOLUME_STOPPED, FOLDER_UNREAD, ADMISSION,
        STORE_FAILURES, KEY_CLAIMS, KEY_CLAIMS_WAITING, CONNECTIONS_REFUSED, TOKENS_REFUSED,
        KEY_FETCHES, TRACES, CLOCK_OFFSET, CLOCK_SYNCHRONISED, WINDOWS_LACK, WINDOWS_BEHIND,
        *LOG_COUNTS.values(),
    ),
    "predictor": (
        PREDICTOR_REQUESTS, PREDICTOR_ERRORS, PREDICTOR_LATENCY, PREDICTOR_BATCH, PREDICTOR_READY,
        PREDICTOR_DEPTH, PREDICTOR_WARM_UP,
    ),
    "worker": (
        WORKER_MESSAGES, WORKER_GIVEN_UP, WORKER_RETRIES, WORKER_LAG, WORKER_IN_WORK, WORKER_BATCH,
        WORKER_TRACES, STREAM_LAG, STREAM_BEHIND, TOPIC_DROPPED, TOPIC_DROPPED_FOUND,
    ),
    "exporter": (
        ROUTES_GENERATION, ROUTES_SHARE, MODEL_KILLED, EMERGENCY_UNCONFIRMED, ROLLOUT_PHASE,
        ROLLOUT_SINCE, ROLLOUT_PASS, ROLLOUT_COUNTS,
        DRIFT_CHECK, DRIFT_VERDICT, DRIFT_UNDECIDED, DRIFT_PSI, DRIFT_PSI_LIMIT, DRIFT_DISTANCE,
        DRIFT_DISTANCE_LIMIT, DRIFT_MISSING, INCIDENT, INCIDENT_SINCE, LABELS_MATURED, LABELS_KNOWN,
        LABELS_LATE, LABEL_NEWEST, PRECISION, RECALL, WATERMARK, WRITER_RECORDS, EVENT_TIME,
        HOME_FREE, HOME_SIZE, REFUSALS, EVENTS_WAITING, EVENTS_LATE, EVENTS_DELIVERED,
        EVENTS_FAILED, STATE_UNREAD,
    ),
}  # fmt: skip


def _process(name: str, kind: Kind, unit: str, meaning: str) -> Metric:
    return Metric(f"process_{name}", kind, unit, meaning)


VIRTUAL_MEMORY: Final = _process(
    "virtual_memory_bytes", "gauge", "bytes", "Address space of a process."
)
RESIDENT_MEMORY: Final = _process(
    "resident_memory_bytes", "gauge", "bytes", "Memory that a process holds."
)
STARTED: Final = _process(
    "start_time_seconds", "gauge", "seconds", "Unix time at which a process started."
)
CPU: Final = _process("cpu_seconds", "counter", "seconds", "Processor time of a process.")
OPEN_FILES: Final = _process("open_fds", "gauge", "files", "Files and sockets that are open.")
MOST_FILES: Final = _process("max_fds", "gauge", "files", "Limit on open files and sockets.")
PROCESS_METRICS: Final = (
    VIRTUAL_MEMORY, RESIDENT_MEMORY, STARTED, CPU, OPEN_FILES, MOST_FILES,
)  # fmt: skip
"""Metrics of every process, with the names that all Prometheus clients use."""

UP: Final = Metric(
    "up", "gauge", "1", "Prometheus: 1 for a process that it could scrape.",
    (Label("job", bound="jobs of observability/prometheus"), Label("instance", bound="processes")),
)  # fmt: skip
ALERTS: Final = Metric(
    "ALERTS", "gauge", "1", "Prometheus: 1 for an alert that is pending or firing.",
    (
        Label("alertname", bound="alerts of observability/alerts"),
        Label("alertstate", ("pending", "firing")),
        Label("severity", ("page", "ticket", "none")),
    ),
)  # fmt: skip
_SPAN = (
    Label("service_name", bound="processes that have spans"),
    Label("span_name", bound="kinds of spans and models; runs of flows"),
    Label("status_code", ("STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR")),
)
SPAN_CALLS: Final = Metric(
    "traces_span_metrics_calls", "counter", "spans",
    "The collector: spans that it took, before any is sampled away.", _SPAN,
)  # fmt: skip
SPAN_DURATION: Final = Metric(
    "traces_span_metrics_duration_milliseconds", "histogram", "milliseconds",
    "The collector: how long they took.", _SPAN,
)  # fmt: skip
_GPU = (
    SERVICE,
    Label("gpu", bound="GPUs of a node"),
    Label("instance", bound="nodes that have GPUs"),
)


def _gpu(name: str, unit: str, meaning: str) -> Metric:
    return Metric(f"DCGM_FI_{name}", "gauge", unit, f"NVIDIA's exporter: {meaning}", _GPU)


GPU_BUSY: Final = _gpu(
    "PROF_GR_ENGINE_ACTIVE", "share", "share of time in which the GPU, or the part of it that a "
    "pod has, was busy.",
)  # fmt: skip
GPU_UTILISATION: Final = _gpu("DEV_GPU_UTIL", "percent", "time in which whole GPUs were busy.")
GPU_MEMORY: Final = _gpu("DEV_FB_USED", "mebibytes", "memory in use.")
GPU_MEMORY_FREE: Final = _gpu("DEV_FB_FREE", "mebibytes", "memory that is free.")
GPU_POWER: Final = _gpu("DEV_POWER_USAGE", "watts", "power drawn.")
FOREIGN: Final = (
    UP, ALERTS, SPAN_CALLS, SPAN_DURATION, GPU_BUSY, GPU_UTILISATION, GPU_MEMORY, GPU_MEMORY_FREE,
    GPU_POWER,
)  # fmt: skip
"""Metrics that others emit about the platform, and that rules or dashboards use."""

REQUEST_SPAN: Final = SpanKind(
    "{operation} {model}", "SERVER", "A request, from its first byte until its answer is ready."
)
DECISION_SPAN: Final = SpanKind("decide", "INTERNAL", "One decision of a request that has several.")
FEATURES_SPAN: Final = SpanKind("features", "INTERNAL", "The read of the online features.")
PREDICT_SPAN: Final = SpanKind("predict {step}", "CLIENT", "One predictor asked, answered or not.")
INFER_SPAN: Final = SpanKind(
    "infer {service}",
    "SERVER",
    "What a predictor says of its time for an answer. The gateway builds it, so it has no clock of "
    "its own: it lies in the middle of the call.",
    "predictor",
)
RECORD_SPAN: Final = SpanKind("record", "INTERNAL", "From the decision until its record is kept.")
ACCEPT_SPAN: Final = SpanKind(
    "send {topic}", "PRODUCER", "A request accepted for later, until its record is kept."
)
DRAIN_SPAN: Final = SpanKind(
    "process {topic}",
    "CONSUMER",
    "A batch of messages, from its first one read until results and offsets are committed. It is "
    "linked with where its messages come from, as far as they say.",
    "worker",
)
ASK_SPAN: Final = SpanKind("ask gateway", "CLIENT", "One call of the gateway for items.", "worker")
FLOW_SPAN: Final = SpanKind(
    "{flow run}", "INTERNAL", "A flow run, made by Prefect, under the run's name.", "flows"
)
TASK_SPAN: Final = SpanKind("{task run}", "INTERNAL", "A task of a flow run.", "flows")
ITEM_SPAN: Final = SpanKind(
    "work {work}", "INTERNAL", "One item of a heavy job, below the flow run that asked.", "jobs"
)
SPANS: Final = (
    REQUEST_SPAN, DECISION_SPAN, FEATURES_SPAN, PREDICT_SPAN, INFER_SPAN, RECORD_SPAN, ACCEPT_SPAN,
    DRAIN_SPAN, ASK_SPAN, FLOW_SPAN, TASK_SPAN, ITEM_SPAN,
)  # fmt: skip

_HTTP = "OpenTelemetry semantic conventions, HTTP"
HTTP_METHOD: Final = Attribute("http.request.method", "Method of the request.", _HTTP)
HTTP_STATUS: Final = Attribute("http.response.status_code", "Status of the answer.", _HTTP)
HTTP_ROUTE: Final = Attribute("http.route", "Path of the endpoint; it holds no values.", _HTTP)
RPC_SYSTEM: Final = Attribute(
    "rpc.system", "`grpc` for gRPC calls.", "OpenTelemetry semantic conventions, RPC"
)
ERROR_TYPE: Final = Attribute(
    "error.type",
    "Problem of a failed request; why a predictor gave no score; that no record was kept.",
    "OpenTelemetry semantic conventions",
)
MODEL_NAME: Final = Attribute("mlplatform.model.name", "The model's name.")
MODEL_VERSION: Final = Attribute("mlplatform.model.version", "Version of the arm that decided.")
DECISION_ID: Final = Attribute("mlplatform.decision.id", "Finds the record in the decision log.")
ROUTE_ARM: Final = Attribute("mlplatform.route.arm", "Arm that the routes assigned, or `named`.")
GENERATION_USED: Final = Attribute("mlplatform.route.generation", "Generation of the routes.")
ANSWERED_BY: Final = Attribute("mlplatform.answered_by", "Step that gave the answer.")
DEGRADED_REASON: Final = Attribute("mlplatform.degraded.reason", "Why the answer is degraded.")
QUEUE_MS: Final = Attribute(
    "mlplatform.predictor.queue_ms", "Waited for the model, as the predictor says."
)
COMPUTE_MS: Final = Attribute("mlplatform.predictor.compute_ms", "In the model, as it says.")
_MESSAGING = "OpenTelemetry semantic conventions, messaging"
TOPIC: Final = Attribute("messaging.destination.name", "The topic.", _MESSAGING)
MESSAGES: Final = Attribute(
    "messaging.batch.message_count", "Messages of the batch; items of the call.", _MESSAGING
)
RUN_ID: Final = Attribute("prefect.run.id", "The run's id in Prefect.", "Prefect")
RUN_TYPE: Final = Attribute("prefect.run.type", "flow or task.", "Prefect")
KEPT_FOR: Final = Attribute(
    "mlplatform.trace.kept_for",
    "Why these spans were built: error, slow, degraded, canary, caller or share; gateway where a "
    "gateway kept its part.",
)
ATTRIBUTES: Final = (
    HTTP_METHOD, HTTP_STATUS, HTTP_ROUTE, RPC_SYSTEM, ERROR_TYPE, MODEL_NAME, MODEL_VERSION,
    DECISION_ID, ROUTE_ARM, GENERATION_USED, ANSWERED_BY, DEGRADED_REASON, QUEUE_MS, COMPUTE_MS,
    TOPIC, MESSAGES, RUN_ID, RUN_TYPE, KEPT_FOR,
)  # fmt: skip

LOG_FIELDS: Final = {
    "time": "When, UTC, RFC 3339 with milliseconds.",
    "level": "debug, info, warning, error or critical.",
    "process": "gateway, predictor, worker, exporter, supervisor, flows, jobs, mlflow, "
    "page or events.",
    "instance": "Name of the process, where it has one.",
    "pid": "Its process id.",
    "logger": "Module that wrote the line.",
    "message": "What happened.",
    "error": "The chain of exceptions, as Python prints it, without values of variables.",
    "trace_id": "The trace that the line belongs to.",
    "decision_id": "The decision that the line is about.",
    "model": "The model that the line is about.",
    "run_id": "The flow run that wrote the line.",
}
"""Fields of every log line, a JSON object; the last five and `instance` where they apply."""
