"""Whether a folder belongs to its user alone, and what is done if not.

A folder that somebody else owns, or may replace, is refused. A folder that is only open to be read
is closed.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import ConfigInvalid

OTHERS: Final = 0o077
"""Permission bits of a file's or folder's group and of everybody else."""

_ROOT: Final = 0
_MOST_NAMED: Final = 5

log = logging.getLogger(__name__)


def claim(root: Path, variable: str, *, has_neighbours: bool) -> None:
    """Close a folder to everybody but its owner, who must be this process's user.

    One that root owns and this process's group may write, as a pod's volume is mounted, is taken
    as it is, unless everybody may enter it.

    Args:
        variable: the setting that names the folder, for messages.
        has_neighbours: whether other users may work on this machine. If not, as in a pod, the
            folders above are not checked, because the volume determines them.

    Raises:
        ConfigInvalid: the folder belongs to somebody else, holds a folder, file or link of somebody
            else, or somebody else can replace it.
    """
    if has_neighbours:
        for folder in _above(root):
            _check_above(folder, root, variable)
    status = root.stat()
    if status.st_uid == os.geteuid():
        if stat.S_IMODE(status.st_mode) & OTHERS:
            root.chmod(0o700)
        if has_neighbours:
            _check_entries(root, variable)
        return
    is_ours_by_group = status.st_gid in {os.getegid(), *os.getgroups()}
    is_for_group = status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_IRWXO
    if status.st_uid == _ROOT and is_ours_by_group and is_for_group:
        return
    wanted = (
        f"a folder of the user that runs this, uid {os.geteuid()}; it is that of uid"
        f" {status.st_uid}: run as that user, name another folder, or give it to this one"
        f" (chown -R {os.geteuid()} {root})"
    )
    raise ConfigInvalid(variable, str(root), wanted)


def check_content(root: Path, variable: str) -> None:
    """Raises unless only this user and root may change what a folder holds, hidden files aside.

    Args:
        variable: the setting that names the folder, for messages.

    Raises:
        ConfigInvalid: another user may change something in it, or put another folder in its place;
            or it holds a link, whose target is not checked, or a pipe or the like, on which a
            reader would wait.
    """
    for folder in _above(root):
        _check_above(folder, root, variable)
    for path, status in ((root, root.stat()), *_within(root, _hidden(root))):
        if stat.S_ISLNK(status.st_mode):
            raise ConfigInvalid(variable, str(path), "no link: put what it leads to in its place")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ConfigInvalid(variable, str(path), "only plain files and folders: remove it")
        if status.st_uid not in (_ROOT, os.geteuid()) or _is_open(status):
            wanted = (
                f"a path that only you may change; it belongs to uid {status.st_uid} with mode"
                f" {stat.S_IMODE(status.st_mode):o}: make it yours, or remove the right of others"
                f" to write (chmod -R go-w {root})"
            )
            raise ConfigInvalid(variable, str(path), wanted)


def _hidden(root: Path) -> frozenset[str]:
    return frozenset(name for name in os.listdir(root) if name.startswith("."))


def narrow(root: Path, left_alone: Iterable[str] = ()) -> list[Path]:
    """Remove the permissions of group and others on everything in a folder. Returns what was open.

    Args:
        left_alone: names in `root` whose permissions stay as they are.

    Raises:
        ConfigInvalid: a file or folder in it belongs to somebody else; the message names it.
    """
    found = []
    for path, status in _within(root, frozenset(left_alone)):
        if status.st_uid != os.geteuid():
            wanted = f"files of uid {os.geteuid()} alone; it belongs to uid {status.st_uid}"
            raise ConfigInvalid("the home folder", str(path), wanted)
        if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) & OTHERS:
            path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
            found.append(path)
    if found:
        named = ", ".join(str(path) for path in found[:_MOST_NAMED])
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        log.warning(
            "other users could read these files; now only their owner can: %s%s", named, more
        )
    return found


def _above(root: Path) -> Iterator[Path]:
    """The folders above a folder, by its name and by its resolved path, with links themselves
    too."""
    seen = set()
    for path in (root, root.resolve()):
        for one in (path, *path.parents):
            if one not in seen:
                seen.add(one)
                yield one


def _check_above(folder: Path, root: Path, variable: str) -> None:
    status = folder.lstat()
    ours = (_ROOT, os.geteuid())
    if stat.S_ISLNK(status.st_mode):
        if status.st_uid not in ours:
            wanted = f"no link of another user; {folder} is one of uid {status.st_uid}"
            raise ConfigInvalid(variable, str(root), wanted)
        return
    if folder in (root, root.resolve()):
        return
    is_sticky = status.st_mode & stat.S_ISVTX
    if status.st_uid not in ours or (_is_open(status) and not is_sticky):
        wanted = (
            f"a folder that nobody else can replace; {folder} belongs to uid"
            f" {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}: name one in a folder of"
            f" yours, or remove the right of others to write (chmod go-w {folder})"
        )
        raise ConfigInvalid(variable, str(root), wanted)


def _check_entries(root: Path, variable: str) -> None:
    """Raises if another user put something into the folder while it was open. With a link in the
    place of a folder, secrets would be written and read where that user wants."""
    for entry in os.scandir(root):
        try:
            uid = entry.stat(follow_symlinks=False).st_uid
        except FileNotFoundError:  # a database's file was removed
            continue
        if uid not in (_ROOT, os.geteuid()):
            wanted = (
                f"a home without {entry.name}, which is uid {uid}'s: find out who put it there, and"
                f" move it out of the home, or give it to this user (chown {os.geteuid()})"
            )
            raise ConfigInvalid(variable, str(root), wanted)


def may_others_write(folder: Path) -> bool:
    """Whether another user may put a file into a folder; root may do so anywhere."""
    status = folder.stat()
    return status.st_uid not in (_ROOT, os.geteuid()) or _is_open(status)


def _is_open(status: os.stat_result) -> bool:
    """Whether everybody may write, or the folder's group, if that is not ours alone."""
    by_group = status.st_mode & stat.S_IWGRP and not _is_ours_alone(status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or by_group)


def _is_ours_alone(gid: int) -> bool:
    """Whether a group is root's, or the one with this user's name and no other member."""
    if gid == _ROOT:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:  # a group without a name may have any members
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _within(root: Path, left_alone: frozenset[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Files, folders and links (not followed) below a folder; one that disappears is no error."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            if folder == root and entry.name in left_alone:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield Path(entry.path), status
            if stat.S_ISDIR(status.st_mode):
                folders.append(Path(entry.path))
