"""This repository's own history, commit by commit, as a tree under capture: each commit comes back as git has it."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import ROOT
from tests.support.files import capturing, looks

COMMITS = 12
RESTORED = 3


def git(*words: str | Path) -> str:
    return subprocess.run(["git", *map(str, words)], check=True, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.slow
async def test_the_last_commits_come_back_as_git_has_them(tmp_path: Path) -> None:
    await replay(tmp_path, git("rev-list", "--first-parent", f"--max-count={COMMITS}", "HEAD").split(), RESTORED)


@pytest.mark.soak
async def test_every_commit_comes_back_as_git_has_it(tmp_path: Path) -> None:
    await replay(tmp_path, git("rev-list", "--first-parent", "HEAD").split(), 10**6)


async def replay(tmp_path: Path, newest_first: list[str], restored: int) -> None:
    """Check out each commit over the one before and capture it; then restore some of the points, newest first."""
    commits = newest_first[::-1]
    async with capturing(tmp_path) as captures:
        points = []
        for commit in commits:
            checkout(commit, captures.root, tmp_path / "index")
            points.append((commit, (await captures.once()).index))
        step = max(1, len(points) // restored)
        for commit, index in points[::-1][::step]:
            back, truth = tmp_path / "back", tmp_path / f"git-{commit}"
            truth.mkdir()
            checkout(commit, truth, tmp_path / f"index-{commit}")
            await captures.restore(back, at=index, replace=True)
            assert contents(back) == contents(truth), commit
            shutil.rmtree(truth)


def checkout(commit: str, tree: Path, index: Path) -> None:
    """The files of a commit, and no others; `index` remembers what the last one was."""
    environment = {"GIT_INDEX_FILE": str(index), "GIT_DIR": git("rev-parse", "--absolute-git-dir").strip()}
    subprocess.run(
        ["git", "--work-tree", tree, "read-tree", "--reset", "-u", commit],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tree.parent), **environment},
        cwd=tree,
    )


def contents(root: Path) -> dict[bytes, tuple[object, ...]]:
    """What git keeps of a tree: paths, whether they may be executed, contents and links."""
    return {
        path: (stat.S_IFMT(mode), bool(mode & stat.S_IXUSR), what)
        for path, (mode, _uid, _gid, _mtime, what, *_) in looks(root).items()
        if isinstance(mode, int) and not stat.S_ISDIR(mode)
    }
