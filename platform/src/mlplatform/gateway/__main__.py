"""`python -m mlplatform.gateway`: the scoring API as a process."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn

from mlplatform import settings as settings_module
from mlplatform.clock import ReplayClock, SystemClock
from mlplatform.decisions.commit import AsyncGroupCommit
from mlplatform.decisions.sqlite import SqliteDecisionLog
from mlplatform.errors import Busy, PlatformError
from mlplatform.features.definitions import FeatureView, load_views
from mlplatform.features.feast_sqlite import FeastSqlite, project_name
from mlplatform.gateway import keys, openapi
from mlplatform.gateway.app import Gateway
from mlplatform.gateway.follow import RouteFollower
from mlplatform.gateway.labels import Labels
from mlplatform.gateway.live import LiveModel
from mlplatform.gateway.metrics import Metrics, ModelMetrics
from mlplatform.gateway.predictor import Limits, Predictor
from mlplatform.gateway.recording import ObservedLog, Recorder
from mlplatform.gateway.scoring import Scoring
from mlplatform.gateway.shadow import ShadowCopies
from mlplatform.gateway.times import EventTimes, Watermark
from mlplatform.models.definition import load_definition, model_folder, model_names
from mlplatform.pseudonym import load_or_create_key
from mlplatform.rollout.sqlite import SqliteRollouts
from mlplatform.serving.local import LocalPlane
from mlplatform.settings import Settings
from mlplatform.supervisor.lifeline import follow_parent

WRITER = "gateway-0"
MAX_COMMIT = 256
COMMIT_WAIT_MS = 0.0
DRAIN_S = 10
SWITCH_INTERVAL_S = 0.0005
"""The commit thread and the event loop share the interpreter lock: 5 ms would be a deadline's
tenth each time one waits for the other."""


def compose(settings: Settings) -> Gateway:
    """The gateway over the embedded backends in the home folder."""
    home = settings.home
    home.create()
    key = load_or_create_key(home.pseudonym_key)
    log = SqliteDecisionLog(home.decisions)
    watermark = Watermark(log.latest_event_ms())
    clock = ReplayClock(lambda: watermark.event_ms) if settings.clock == "replay" else SystemClock()
    metrics = Metrics()
    observed = ObservedLog(log, metrics.commit_records.observe)
    times = EventTimes(settings.clock, clock.event_ms)
    recorder = Recorder(
        lambda: AsyncGroupCommit(
            observed, WRITER, MAX_COMMIT, COMMIT_WAIT_MS, reached_ms=times.passed_ms
        ),
        watermark.advance,
    )
    shadow = ShadowCopies(recorder, clock, lambda m: metrics.shadow_dropped.labels(m).inc())
    plane = LocalPlane(home.serving)

    def new_predictor(service: str, limits: Limits) -> Predictor:
        return Predictor(service, plane.endpoint, home.predictor_token.read_text, limits)

    names = model_names()
    models: dict[str, Scoring] = {}
    for name in names:
        views: tuple[FeatureView, ...] = load_views(model_folder(name))
        models[name] = Scoring(
            LiveModel(load_definition(name), views, home.bundles, new_predictor),
            FeastSqlite(home.online_db, project_name(name), views),
            log,
            recorder,
            shadow,
            times,
            clock,
            key,
            ModelMetrics(metrics, name),
        )
    follower = RouteFollower(
        WRITER,
        [scoring.live for scoring in models.values()],
        lambda: SqliteRollouts(home.rollouts_db),
        lambda model, generation: metrics.generation.labels(model).set(generation),
    )

    async def start() -> None:
        recorder.start()
        shadow.start()
        follower.start()

    async def stop() -> None:
        await follower.stop()
        await shadow.stop(within_s=2.0)
        await recorder.stop()

    return Gateway(
        keys.load_or_create(home.secrets / "api-keys.json", home.api_key),
        models,
        Labels(recorder, log, times, clock, key),
        metrics,
        openapi.render([load_definition(name) for name in names]).encode(),
        lambda: recorder.alive,
        lambda: follower.ready,
        start,
        stop,
    )


def listener(port: int) -> socket.socket:
    """A loopback socket.

    Raises:
        Busy: names the port that somebody else has.
    """
    try:
        return socket.create_server(("127.0.0.1", port), backlog=512)
    except OSError as error:
        raise Busy(f"port {port} is taken (MLPLATFORM_GATEWAY_PORT)") from error


class _Server(uvicorn.Server):
    """Uvicorn, which ends with status 0 when told to end; a second signal ends it at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished and recorded."""
    follow_parent()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    try:
        settings = settings_module.load(os.environ)
        sock = listener(settings.gateway_port)
        app = compose(settings)
    except PlatformError as error:
        sys.exit(f"the gateway cannot start: {error}")
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=512,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    _Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
