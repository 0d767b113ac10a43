"""A home is its user's alone, at every start: its owner, its modes, and what lies above it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.storage import private_folder

OTHER = 65_534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def claim(root: Path, *, has_neighbours: bool = True) -> None:
    private_folder.claim(root, "MLPLATFORM_HOME", has_neighbours=has_neighbours)


@as_root
def test_a_home_of_somebody_else_is_refused_and_the_way_out_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    os.chown(home.root, OTHER, OTHER)

    with pytest.raises(ConfigInvalid, match=rf"uid {OTHER}.*chown"):
        home.create()


@as_root
def test_a_link_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "home"
    link.symlink_to(tmp_path / "real")
    os.lchown(link, OTHER, OTHER)

    with pytest.raises(ConfigInvalid, match="no link of another user"):
        claim(link)


@as_root
@pytest.mark.parametrize("name", ["secrets", "run", "x"])
def test_what_somebody_else_put_into_a_home_while_it_was_open_is_refused(
    tmp_path: Path, name: str
) -> None:
    home, theirs = Home(tmp_path / "home"), tmp_path / "theirs"
    home.create()
    home.root.chmod(0o777)
    theirs.mkdir(mode=0o777)
    if (home.root / name).exists():
        (home.root / name).rmdir()
    (home.root / name).symlink_to(theirs)
    os.lchown(home.root / name, OTHER, OTHER)

    for _ in range(2):
        with pytest.raises(ConfigInvalid, match=rf"without {name}, which is uid {OTHER}'s"):
            home.create()
    assert not list(theirs.iterdir())


@as_root
def test_a_link_of_somebody_else_deep_in_a_home_is_refused_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    link = home.secrets / "approval.key"
    link.symlink_to(tmp_path / "theirs")
    os.lchown(link, OTHER, OTHER)

    with pytest.raises(ConfigInvalid, match=r"approval\.key"):
        home.close_to_others()


def test_a_link_of_our_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")

    claim(tmp_path / "home")

    assert mode(tmp_path / "real") == 0o700


@pytest.mark.parametrize("depth", [1, 2])
def test_a_folder_that_anybody_may_rename_is_refused(tmp_path: Path, depth: int) -> None:
    open_to_all = tmp_path / "open"
    home = open_to_all.joinpath(*("x" * depth))
    home.mkdir(parents=True)
    open_to_all.chmod(0o777)

    with pytest.raises(ConfigInvalid, match="a folder that nobody else can replace"):
        claim(home)


@as_root
def test_a_folder_of_a_user_who_may_rename_it_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "theirs" / "home"
    home.mkdir(parents=True)
    os.chown(home.parent, OTHER, OTHER)

    with pytest.raises(ConfigInvalid, match=f"uid {OTHER}"):
        claim(home)


def test_a_sticky_folder_of_everybody_is_taken(tmp_path: Path) -> None:
    sticky = tmp_path / "tmp"
    (sticky / "home").mkdir(parents=True)
    sticky.chmod(0o1777)

    claim(sticky / "home")


def test_in_a_pod_the_folders_above_are_the_volumes(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "home").mkdir(parents=True)
    volume.chmod(0o777)

    claim(volume / "home", has_neighbours=False)


@pytest.mark.parametrize(
    ("owner", "group", "permissions", "is_taken"),
    [
        (0, 65532, 0o2770, True),
        (0, 65532, 0o2775, False),
        (0, 65532, 0o700, False),
        (0, 4711, 0o2770, False),
        (4711, 65532, 0o2770, False),
    ],
    ids=["of a group's", "open to all", "root's own", "of another group's", "of another user's"],
)
def test_a_volume_that_roots_group_shares_is_taken_only_where_nobody_else_enters(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: int,
    group: int,
    permissions: int,
    is_taken: bool,
) -> None:
    seen = os.stat_result((stat.S_IFDIR | permissions, 1, 1, 1, owner, group, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    monkeypatch.setattr(os, "getgroups", lambda: [65532])
    monkeypatch.setattr(os, "getegid", lambda: 65532)
    monkeypatch.setattr(Path, "stat", lambda path: seen)

    if is_taken:
        claim(tmp_path, has_neighbours=False)
    else:
        with pytest.raises(ConfigInvalid):
            claim(tmp_path, has_neighbours=False)


def test_a_home_in_a_pod_has_no_neighbours() -> None:
    """The manifests name no profile, and a volume's mount is open to its group."""
    assert load({}).home.has_neighbours
    assert not load({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}).home.has_neighbours


def test_what_is_open_in_a_home_is_closed_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.root / "offline").mkdir(mode=0o700)
    for path in (home.logs / "supervisor.log", home.root / "offline" / "day.parquet"):
        path.write_text("")
        path.chmod(0o644)
    home.offline("x").parent.chmod(0o755)
    bundle = home.bundles / "0ab"
    bundle.mkdir()
    bundle.chmod(0o750)

    home.close_to_others()

    assert mode(home.logs / "supervisor.log") == 0o600
    assert mode(home.root / "offline") == 0o700
    assert mode(home.root / "offline" / "day.parquet") == 0o600
    assert mode(bundle) == 0o750
    assert "supervisor.log" in caplog.text
    caplog.clear()
    home.close_to_others()
    assert caplog.text == ""


@as_root
def test_a_file_of_somebody_else_in_a_home_is_refused_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.run / "planted").write_text("")
    os.chown(home.run / "planted", OTHER, OTHER)

    with pytest.raises(ConfigInvalid, match="planted"):
        home.close_to_others()


def test_what_a_process_makes_after_it_opened_a_home_is_its_owners_alone(tmp_path: Path) -> None:
    Home(tmp_path / "home").create()

    (tmp_path / "later").write_text("")
    (tmp_path / "folder").mkdir()

    assert mode(tmp_path / "later") == 0o600
    assert mode(tmp_path / "folder") == 0o700


@pytest.mark.parametrize(
    ("group", "members", "is_taken"),
    [("ana", [], True), ("ana", ["ana"], True), ("ana", ["eve"], False), ("users", [], False)],
)
def test_a_folder_above_that_a_group_may_write_is_taken_only_where_the_group_is_one_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: list[str], is_taken: bool
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    os.chown(above, -1, 4242) if os.geteuid() == 0 else None
    above.chmod(0o770)
    home = above / "home"
    home.mkdir()
    user = pwd.struct_passwd(("ana", "x", os.geteuid(), 4242, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: user)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((group, "x", gid, members)))
    if is_taken:
        private_folder.claim(home, "MLPLATFORM_HOME", has_neighbours=True)
    else:
        with pytest.raises(ConfigInvalid, match="chmod go-w"):
            private_folder.claim(home, "MLPLATFORM_HOME", has_neighbours=True)


@pytest.mark.parametrize(
    ("mode", "may"), [(0o700, False), (0o755, False), (0o777, True), (0o1777, True)]
)
def test_whether_others_may_put_a_file_into_a_folder(tmp_path: Path, mode: int, may: bool) -> None:
    """Sticky or not: what is new there is theirs."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert private_folder.may_others_write(folder) is may


@as_root
def test_a_folder_of_another_user_is_one_that_others_write(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, OTHER, OTHER)
    assert private_folder.may_others_write(folder)
