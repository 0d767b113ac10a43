"""The declarations by which a process serves, as folders change under it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.model_folders import copied

from mlplatform.model.declarations import AGAIN_S, POLL_S, Declarations
from mlplatform.model.folders import personal_fields

DEADLINE = "deadline_ms: 50"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "team"
    root.mkdir()
    monkeypatch.setenv("MLPLATFORM_MODELS", str(root))
    return root


@pytest.fixture
def clock() -> Clock:
    return Clock()


def looker(declarations: Declarations, clock: Clock) -> Callable[[], list[bool]]:
    """Looks twice, as two polls do."""

    def look() -> list[bool]:
        found = []
        for _ in range(2):
            clock.now_s += POLL_S
            found.append(declarations.poll())
        return found

    return look


def changed(folder: Path, before: str, after: str) -> None:
    file = folder / "model.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_a_change_counts_once_two_looks_see_the_same(root: Path, clock: Clock) -> None:
    folder = copied(root, "credit")
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    assert look() == [False, False]
    changed(folder, DEADLINE, "deadline_ms: 60")
    assert not declarations.poll(), "it is not time to look yet"
    assert look() == [False, True]
    assert declarations.present["credit"].definition.deadline_ms == 60
    assert look() == [False, False]


def test_a_file_that_is_being_written_is_left_alone(root: Path, clock: Clock) -> None:
    folder = copied(root, "credit")
    declarations = Declarations(clock_s=clock)
    for number in range(60, 70):
        changed(folder, "deadline_ms: ", f"deadline_ms: {number} # ")
        clock.now_s += POLL_S
        assert not declarations.poll()
    assert declarations.present["credit"].definition.deadline_ms == 50
    assert looker(declarations, clock)()[0]
    assert declarations.present["credit"].definition.deadline_ms == 69


@pytest.mark.parametrize("written", ["", "name: [", "name: credit\n"])
def test_a_broken_file_leaves_the_last_good_one_is_told_once_and_heals(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    folder = copied(root, "credit")
    copied(root, "card")
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    good, file = declarations.present["credit"], folder / "model.yaml"
    text = file.read_text()
    with caplog.at_level(logging.ERROR):
        file.write_text(written)
        assert look() == [False, True]
        clock.now_s += AGAIN_S
        look()
        changed(root / "card", DEADLINE, "deadline_ms: 70")
        look()
    assert declarations.present["credit"] is good
    assert declarations.present["card"].definition.deadline_ms == 70
    (problem,) = declarations.problems.values()
    (line,) = caplog.messages
    assert line == f"model credit keeps its last good declaration: {problem}"
    assert "model.yaml" in problem
    file.write_text(text)
    assert look() == [False, True]
    assert declarations.problems == {}
    assert declarations.present["credit"] == good


def test_a_folder_that_was_never_good_is_no_model_until_it_is(root: Path, clock: Clock) -> None:
    copied(root, "card")
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    folder = copied(root, "credit")
    text = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(text[: len(text) // 2])
    look()
    assert set(declarations.present) == {"card"}
    assert set(declarations.problems) == {"credit"}
    (folder / "model.yaml").write_text(text)
    look()
    assert set(declarations.present) == {"card", "credit"}
    assert declarations.problems == {}


def test_a_folder_of_a_name_that_no_model_may_have_is_told_once(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    copied(root, "credit")
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    copied(root, "Credit 2")
    look()
    copied(root, "card")
    look()
    (told,) = declarations.refused
    assert "Credit 2" in told
    assert [m for m in caplog.messages if "Credit 2" in m] == [f"a folder can't be a model: {told}"]
    assert set(declarations.present) == {"card", "credit"}


def test_a_folder_that_is_gone_keeps_its_declaration(root: Path, clock: Clock) -> None:
    copied(root, "card")
    folder = copied(root, "credit")
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    shutil.move(folder, root.parent / "credit")
    assert look() == [False, True]
    assert declarations.gone == {"credit"}
    assert "no model 'credit'" in declarations.problems["credit"]
    assert set(declarations.present) == {"card", "credit"}
    shutil.move(root.parent / "credit", folder)
    assert look() == [False, True]
    assert (declarations.gone, declarations.problems) == (frozenset(), {})


def test_what_no_file_shows_is_read_again_after_a_while(root: Path, clock: Clock) -> None:
    folder = copied(root, "credit")
    (folder / "training.py").chmod(0o666)  # others may write it
    declarations = Declarations(clock_s=clock)
    look = looker(declarations, clock)
    assert declarations.present == {}
    (folder / "training.py").chmod(0o644)
    clock.now_s += AGAIN_S
    assert any(look())
    assert set(declarations.present) == {"credit"}


def test_a_volume_whose_links_are_swapped_at_once_is_a_change(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes does it: a folder of each state, and one link that names the present one."""
    monkeypatch.setenv("MLPLATFORM_PROFILE", "cluster")
    made, volume = copied(root.parent, "credit"), root / "credit"
    for number in (50, 80):
        state = volume / f"..{number}"
        shutil.copytree(made, state)
        changed(state, DEADLINE, f"deadline_ms: {number}")
    (volume / "..data").symlink_to("..50")
    for file in made.iterdir():
        (volume / file.name).symlink_to(f"..data/{file.name}")
    declarations = Declarations(clock_s=clock)
    assert declarations.present["credit"].definition.deadline_ms == 50
    (volume / "..next").symlink_to("..80")
    (volume / "..next").rename(volume / "..data")
    assert looker(declarations, clock)() == [False, True]
    assert declarations.present["credit"].definition.deadline_ms == 80


def test_values_of_a_field_that_is_declared_later_are_removed_from_log_lines(
    root: Path, clock: Clock
) -> None:
    folder = copied(root, "credit")
    declarations = Declarations(clock_s=clock)
    policy = personal_fields()
    text = "a request had shoe_size=47"
    assert policy.applied(text) == text
    changed(
        folder,
        "request:\n",
        "request:\n  shoe_size: {type: int64, minimum: 0, maximum: 99, optional: true}\n",
    )
    looker(declarations, clock)()
    assert "shoe_size" in declarations.present["credit"].definition.request
    assert "47" not in policy.applied(text)
