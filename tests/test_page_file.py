"""The file of --html: its mode, its owner, and what it never writes through."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from src.display.page import Page, write

PAGE = Page("game", "2026-11-20 12:00:00", date(2026, 11, 20), 1, "All is well", [], True, [])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_a_new_page_gets_what_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write(PAGE, tmp_path / "page.html")
    finally:
        os.umask(before)
    assert (tmp_path / "page.html").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o444])
def test_a_page_keeps_its_mode_and_its_owner(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "page.html"
    path.write_text("the page of yesterday")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    write(PAGE, path)
    after = path.stat()
    assert "All is well" in path.read_text()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path, exists: bool) -> None:
    private, link = tmp_path / "private.txt", tmp_path / "page.html"
    if exists:
        private.write_text("of somebody else")
    link.symlink_to(private)
    with pytest.raises(FileExistsError, match=r"page\.html is a link; name the file that it leads to"):
        write(PAGE, link)
    assert link.is_symlink()
    assert private.exists() == exists
    assert not exists or private.read_text() == "of somebody else"


def test_a_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    write(PAGE, tmp_path / "current" / "page.html")
    assert [path.name for path in (tmp_path / "release").iterdir()] == ["page.html"]
