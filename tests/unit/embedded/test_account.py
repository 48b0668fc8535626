"""As root, PostgreSQL runs as another account: what that can reach."""

from __future__ import annotations

from pathlib import Path

from oncecast.embedded.account import can_run


def test_a_program_behind_a_link_in_a_closed_folder_is_none_that_every_account_can_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    link = tmp_path / "sh"
    link.symlink_to("/bin/sh")
    assert (can_run(Path("/bin/sh")), can_run(link)) == (True, False)
