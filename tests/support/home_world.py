"""A home folder with some of everything that the platform keeps, made without its processes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, Idempotency
from mlplatform.decisions.records.prepared_record import prepared
from mlplatform.decisions.records.pseudonym import load_or_create_key
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.spill import files
from mlplatform.decisions.spill.files import SpillFile
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, TopicSpec
from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Answered, Opened, Promoted
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission

MODEL, WRITER, CLIENT = "fraud", "gateway-0", "shop"
SEGMENT_ROWS = (4, 4)
MANIFEST = "fraud-v1-abababab"


class HomeWorld:
    """The state of an installation, and the steps that its processes would take.

    Args:
        root: the home folder.
        rollouts: where their journal is; None: in the home folder.
    """

    def __init__(self, root: Path, rollouts: SqlRollouts | None = None) -> None:
        self.home = Home(root)
        self.home.create()
        self.log = SqliteDecisionLog(self.home.decisions, segment_rows=SEGMENT_ROWS)
        self.rollouts = rollouts or SqliteRollouts(self.home.rollouts_db)
        self.topics = LocalTopics(self.home.topics_db, [TopicSpec("fraud.decisions")])
        self.number = 0
        self.secret = ""

    def fill(self) -> None:
        """Sealed and unsealed records, a promoted version, a key, a message, files."""
        self.promote(1)
        self.decide(6)
        self.log.seal()
        self.rollouts.anchor(self.log.seal())
        self.decide(2)
        self.topics.publish([Message("fraud.decisions", b"d1", b"{}", {})])
        with contextlib.closing(SqliteAdmission(self.home.admission_db)) as admission:
            scopes = frozenset({parse_scope("fraud:score")})
            self.secret = create_key(
                admission, CLIENT, scopes, priority="standard", limit=None, now_ms=1
            )[1]
        load_or_create_key(self.home.pseudonym_key)
        self.write("secrets/api.key", self.secret)
        self.write("run/mlflow.token", "a token of this start")
        self.write("logs/gateway-0.log", "a line")
        self.write("offline/fraud/parts/00000000/position.json", "{}")
        self.write("offline/fraud/parts/.building/position.json", "half a part")
        self.write("bundles/ab/bundle.json", "{}")
        self.write("mlflow/artifacts/1/run/artifacts/bundle/bundle.json", "{}")
        self.write("reports/drift.html", "<html>")
        self.write("serving/status/fraud-v1-abababab.json", "{}")
        self.write(f"serving/desired/{MANIFEST}.json", self._manifest())

    def decide(self, count: int) -> None:
        """Records with keys, which carry the generation of the routes of now."""
        generation = self.rollouts.routes(MODEL).generation
        self.log.append(WRITER, [self.entry(generation) for _ in range(count)])

    def spill(self, count: int) -> str:
        """Records that wait outside of the log, as a killed gateway leaves them; their file."""
        path = files.spill_path(self.log.spills, WRITER)
        file = SpillFile.take_over(path) or SpillFile.create(path, durable=False)
        framed = [files.framed(prepared(self.entry(1))) for _ in range(count)]
        file.append(framed, maximum_bytes=1_000_000, durable=False)
        file.close()
        return f"decisions/spill/{path.name}"

    def entry(self, generation: int) -> Entry:
        self.number += 1
        name = f"d{self.number}"
        record = Record(
            kind="decision",
            decision_id=name,
            model=MODEL,
            event_ms=self.number,
            recorded_ms=self.number,
            generation=generation,
            payload={"request": {"amount": 1.0}},
        )
        return Entry(record, Idempotency(CLIENT, name, "body", f"answer to {name}".encode()))

    def promote(self, version: int) -> Routes:
        """A version that answers from now on."""
        rollout_id = f"fraud-v{version}-1"
        facts = {
            "rollout_id": rollout_id,
            "model": MODEL,
            "event_ms": 0,
            "wall_ms": 0,
            "actor": "test",
            "reason": "test",
        }
        arm = Arm(version, "ab", f"fraud-v{version}-abababab")
        before = self.rollouts.routes(MODEL)
        opened = Opened(
            **facts,  # type: ignore[arg-type]
            challenger=arm,
            author="ana",
            alert_low=0.0,
            alert_high=1.0,
            bootstrap=before.champion is None,
            emergency=before.champion is not None,
            approval="none",
        )
        self.rollouts.commit(opened, None)
        fence = self.rollouts.acquire(MODEL, "test", 60.0)
        assert fence is not None
        routes = Routes(
            MODEL, before.generation + 1, arm, None, before.champion, rollout_id, "steady", 0.0
        )
        promoted = Promoted(**facts, predecessor=before.champion)  # type: ignore[arg-type]
        self.rollouts.commit(promoted, fence, routes)
        if opened.emergency:  # a second person confirms it, so that another one may follow
            asked = {"approver": "second", "bound_to": promoted.evidence_digest}
            self.rollouts.commit(Answered(**facts, answer="approve", **asked), None)  # type: ignore[arg-type]
        return routes

    def write(self, name: str, text: str) -> None:
        write_atomically(self.home.root / name, text.encode())

    def close(self) -> None:
        self.log.close()
        self.rollouts.close()
        self.topics.close()

    def _manifest(self) -> str:
        uri = (self.home.bundles / "ab").absolute().as_uri()
        return json.dumps({"spec": {"predictor": {"model": {"storageUri": uri}}}})
