"""Makes the home folder of a release, for the tests of later releases to open.

In a worktree of the commit, with this file copied into its `tests/support/`:

    PYTHONPATH=platform/src:.:tests python tests/support/kept_home.py HOME.tar.gz

Where a commit has its tests of passes or its incidents elsewhere, `--passes` and `--incidents` say
so: of 3eb50e7f they are `unit.test_rollout_passes` and `mlplatform.drift`, of 0.2.0
`unit.rollouts.test_rollout_passes`. Before 0.3.0 what opens an incident is a `--finding Finding`.
Keys and names in a home are made up, and open nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import rollout_world
from support import home_world

KEY: Final = "kept"
ANSWER: Final = b'{"decision":"approve"}'
OUTLIVES_TESTS_MS: Final = 100 * 365 * 86_400_000
SPILLED: Final = 3
OPEN_ROWS: Final = 2
VOIDED: Final = "g1-1"
WRITER: Final = rollout_world.WRITER
PASSES: Final = "unit.rollouts.passes.test_rollout_passes"
INCIDENTS: Final = "mlplatform.rollouts.drift"
FINDING: Final = "IncidentFinding"


def append(log: Any, rows: Sequence[dict[str, Any]], key: str | None = None) -> None:
    """Rows of `rollout_world` as records of a gateway; each with that idempotency key."""
    columns = {*home_world.Record.__struct_fields__}
    kept = (
        None
        if key is None
        else home_world.Idempotency(
            home_world.CLIENT, key, "body", ANSWER, keep_ms=OUTLIVES_TESTS_MS
        )
    )
    full = rollout_world.table(rows).to_pylist()
    entries = [
        home_world.Entry(home_world.Record(**{k: v for k, v in row.items() if k in columns}), kept)
        for row in full
    ]
    log.append(WRITER, entries)
    log.heartbeat(WRITER, 10**12)  # it lives, and has come as far as a pass may ask


def passes_over(module: Any, scratch: Path, rollouts: Any, log: Any) -> Any:
    """The world of the tests of passes, over a journal and a log that are there."""
    world = module.World(scratch)
    world.rollouts.close()
    world.rollouts, world.log = rollouts, log
    return world


def fill(
    root: Path, scratch: Path, passes: Any, incidents: str = INCIDENTS, finding: str = FINDING
) -> None:
    """A version that was promoted, and one in its canary, with everything that lies around it."""
    home = home_world.Home(root)
    home.create()
    clock = rollout_world.StoppedClock()
    rollouts = home_world.SqliteRollouts(home.rollouts_db, clock)
    with writing_as(WRITER), contextlib.closing(home_world.HomeWorld(root, rollouts)) as kept:
        world = passes_over(passes, scratch, rollouts, kept.log)
        world.clock = clock
        _promote_the_first(world)
        second = world.open(2)
        world.settle()
        world.pass_time()
        rows = rollout_world.shadow_rows(70, 2, generation=world.generation(), version=2)
        append(kept.log, rows)
        world.settle()
        world.approve(second)
        world.settle()
        assert world.state(second).phase == "canary"
        _add_what_is_open(kept)
        open_an_incident(home, incidents, finding)
        _add_a_key(kept)


@contextlib.contextmanager
def writing_as(writer: str) -> Iterator[None]:
    """Makes homes with small segments and this writer; tests of this process have their own."""
    before = home_world.SEGMENT_ROWS, home_world.WRITER
    home_world.SEGMENT_ROWS, home_world.WRITER = (64, 256), writer
    try:
        yield
    finally:
        home_world.SEGMENT_ROWS, home_world.WRITER = before


def _promote_the_first(world: Any) -> None:
    first = world.open(1)
    world.settle()
    world.approve(first)
    world.settle()
    generation = world.generation()
    answers = [{"decision_id": f"g{generation}-{n}", "generation": generation} for n in range(80)]
    append(world.log, answers[:1], KEY)
    append(world.log, answers[1:])
    world.clock.event += 8 * 86_400_000
    label = {"kind": "label", "decision_id": f"g{generation}-2", "label": 1}
    append(world.log, [label | {"event_ms": world.clock.event}])
    append(world.log, [{"kind": "void", "decision_id": VOIDED, "event_ms": world.clock.event}])
    world.settle()
    assert world.state(first).phase == "confirmed"


def _add_what_is_open(kept: Any) -> None:
    kept.decide(OPEN_ROWS)
    kept.spill(SPILLED)
    kept.topics.publish([home_world.Message("fraud.decisions", b"d1", b"{}", {})])


def open_an_incident(home: Any, package: str, finding: str, model: str = home_world.MODEL) -> None:
    """An incident of drift, by the package and the class that the release has for it."""
    port = importlib.import_module(f"{package}.incidents")
    adapter = importlib.import_module(f"{package}.sqlite")
    make = getattr(port, finding)
    found = make(model, "drift", 1_000, 500, 1, {"reasons": ["amounts rose"]})
    adapter.SqliteIncidents(home.rollouts_db).open(found, now_ms=2_000)


def _add_a_key(kept: Any) -> None:
    with contextlib.closing(home_world.SqliteAdmission(kept.home.admission_db)) as admission:
        _, secret = home_world.create_key(
            admission,
            home_world.CLIENT,
            frozenset({home_world.parse_scope("fraud:score")}),
            priority="standard",
            limit=None,
            now_ms=1,
        )
    kept.write("secrets/api.key", secret)
    home_world.load_or_create_key(kept.home.pseudonym_key)


def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without a user, a group and a time of the machine that made it."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def options_of(description: str) -> argparse.ArgumentParser:
    """The options of a script that makes a home: the archive, and where a release has what."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--passes", default=PASSES, help="the tests of passes over rollouts")
    parser.add_argument("--incidents", default=INCIDENTS, help="the package of drift incidents")
    parser.add_argument("--finding", default=FINDING, help="the class that opens an incident")
    return parser


def main() -> None:
    args = options_of(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder, "home"), Path(folder, "scratch")
        scratch.mkdir()
        fill(root, scratch, importlib.import_module(args.passes), args.incidents, args.finding)
        with tarfile.open(args.archive, "w:gz") as archive:
            archive.add(root, "home", filter=plain)


if __name__ == "__main__":
    main()
