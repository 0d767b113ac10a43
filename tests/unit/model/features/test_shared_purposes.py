"""A view that several folders declare serves only the purposes that each of them allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.copied_view import COPY, CREDIT, FRAUD, OWNED, declared, rendered
from tests.support.documented_views import with_documented_view
from tests.support.external_world import BUREAU
from tests.support.team_folder import command
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.commands.authoring.check_model import problems
from mlplatform.learning.training.folder import load_folder
from mlplatform.model.declarations import AGAIN_S, POLL_S, Declarations
from mlplatform.model.features.purposes import DeclaredViews, RefusedView, refused_views
from mlplatform.model.features.views import FeatureView
from mlplatform.model.folders import readable_names
from mlplatform.runtime.errors import ConfigInvalid

SAID = (
    "credit-b: view bureau: purpose is 'credit-decision'; wanted: one of fraud-prevention, as "
    "card-fraud allows for its view bureau; bureau-data@bank.example may allow more in the folder "
    "of card-fraud, or take another name for a view of other values"
)


def of(
    model: str, purpose: str, *allowed: str, view: str = "device", topic: str | None = None
) -> DeclaredViews:
    source = BUREAU.external
    assert source is not None
    source = replace(source, purposes=allowed, topic=topic)
    return DeclaredViews(model, (purpose,), (replace(BUREAU, name=view, external=source),))


def refused(*declared: DeclaredViews) -> list[tuple[str, str]]:
    return [(one.model, one.other) for one in refused_views(declared)]


STRICT = of(OWNED, FRAUD, FRAUD, topic="t")
CASES: list[tuple[str, DeclaredViews, list[tuple[str, str]]]] = [
    ("widened beside its owner's", of(COPY, CREDIT, FRAUD, CREDIT), [(COPY, OWNED)]),
    ("allowed and not used", of(COPY, FRAUD, FRAUD, CREDIT), []),
    ("each for itself alone", of(COPY, CREDIT, CREDIT), [(OWNED, COPY), (COPY, OWNED)]),
    ("another name", of(COPY, CREDIT, CREDIT, view="gadget"), []),
    ("another name, one topic", of(COPY, CREDIT, FRAUD, CREDIT, view="gadget", topic="t"),
     [(COPY, OWNED)]),
    ("one name, another topic", of(COPY, CREDIT, FRAUD, CREDIT, topic="u"), [(COPY, OWNED)]),
]  # fmt: skip


@pytest.mark.parametrize(("other", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_purpose_counts_only_if_each_folder_with_the_values_allows_it(
    other: DeclaredViews, expected: list[tuple[str, str]]
) -> None:
    assert refused(STRICT, other) == expected
    assert sorted(refused(other, STRICT)) == sorted(expected)


def test_another_owner_of_the_same_name_changes_nothing() -> None:
    copy = of(COPY, CREDIT, FRAUD, CREDIT)
    source = copy.views[0].external
    assert source is not None
    own = replace(copy.views[0], external=replace(source, owner="credit@bank.example"))
    assert refused(STRICT, DeclaredViews(COPY, (CREDIT,), (own,))) == [(COPY, OWNED)]


def test_views_of_requests_are_nobody_elses() -> None:
    computed: FeatureView = replace(BUREAU, name="device", external=None)
    assert refused(STRICT, DeclaredViews(COPY, (CREDIT,), (computed,))) == []


def test_a_topic_is_named_with_both_views() -> None:
    copy = of(COPY, CREDIT, FRAUD, CREDIT, view="gadget", topic="t")
    (one,) = refused_views([STRICT, copy])
    assert isinstance(one, RefusedView)
    assert "as card-fraud allows for its view device of topic t;" in str(one.error())
    assert str(one.error()).endswith("or take another topic")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the owner, and a copy whose team has widened its tag."""
    root = tmp_path / "models"
    declared(root, OWNED, FRAUD, FRAUD)
    declared(root, COPY, CREDIT, f"{FRAUD}, {CREDIT}")
    monkeypatch.setenv("MLPLATFORM_MODELS", str(root))
    return root


def test_the_copy_is_refused_by_its_check_and_by_training(root: Path) -> None:
    assert SAID in list(problems(root / COPY))
    with pytest.raises(ConfigInvalid) as told:
        load_folder(COPY)
    assert str(told.value) == SAID
    load_folder(OWNED)
    assert readable_names() == [OWNED, COPY], "what a folder may not use stops no answers"
    rendered(root / COPY, FRAUD, FRAUD)
    load_folder(COPY)


def test_a_copy_outside_of_the_setting_is_compared_with_both_kinds_of_neighbours(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = declared(tmp_path / "draft", COPY, CREDIT, f"{FRAUD}, {CREDIT}")
    assert SAID in list(problems(apart))
    monkeypatch.delenv("MLPLATFORM_MODELS")
    assert SAID in list(problems(root / COPY))


def test_a_working_copy_of_a_folder_is_not_compared_with_itself(root: Path, tmp_path: Path) -> None:
    working = declared(tmp_path / "draft", OWNED, CREDIT, CREDIT)
    told = [one for one in problems(working) if "view bureau" in one]
    assert [one for one in told if "as credit-b allows" in one] == []


def test_a_folder_whose_file_is_broken_stops_no_other(root: Path) -> None:
    (root / COPY / "features.json").write_text("{")
    load_folder(OWNED)


def test_a_stricter_folder_that_comes_later_is_followed_and_told_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    (root / OWNED).rename(root / ".away")
    declarations = Declarations(clock_s=lambda: now_s[0])

    def look() -> list[bool]:
        found = []
        for _ in range(2):
            now_s[0] += max(POLL_S, AGAIN_S)
            found.append(declarations.poll())
        return found

    assert not declarations.refused_views
    (root / ".away").rename(root / OWNED)
    assert look() == [False, True]
    assert [(one.model, one.view) for one in declarations.refused_views] == [(COPY, "bureau")]
    assert sorted(declarations.present) == [OWNED, COPY]
    assert declarations.problems == {}
    assert len([line for line in caplog.messages if SAID in line]) == 1
    (root / OWNED / "features.json").write_text("{")
    look()
    assert declarations.refused_views, "a folder that can't be read still says what it said"
    assert not Declarations(OWNED).refused_views, "a worker follows one model"


def test_the_copy_is_not_rendered(root: Path) -> None:
    before = (root / COPY / "features.json").read_bytes()
    done = CliRunner().invoke(commands.app, ["features", "render", COPY])
    assert done.exit_code != 0
    assert SAID in f"{done.output} {done.exception}"
    assert (root / COPY / "features.json").read_bytes() == before
    assert command("features", "render", OWNED)


def test_the_shipped_folders_and_those_of_the_documents_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Path(__file__).parents[4]
    shipped = ("models", "teams/credit", "teams/payments-data")
    named = os.pathsep.join(str(repository / one) for one in shipped)
    monkeypatch.setenv("MLPLATFORM_MODELS", named)
    assert len(Declarations().present) == 3
    assert not Declarations().refused_views
    monkeypatch.setenv("MLPLATFORM_MODELS", str(tmp_path))
    for folder in ("models/fraud", "teams/credit/credit-default"):
        with_documented_view(tmp_path, folder)
        command("features", "render", Path(folder).name)
    declared(tmp_path, COPY, CREDIT, f"{FRAUD}, {CREDIT}")
    both = Declarations()
    views = {name: [v.name for v in one.views] for name, one in both.present.items()}
    assert views["credit-default"] == ["bureau"]
    assert {"acquirer"} < set(views["fraud"])
    assert "bureau" in views[COPY]
    assert not both.refused_views
