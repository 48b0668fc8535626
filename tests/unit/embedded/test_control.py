"""The socket by which other terminals reach a stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from oncecast.core.errors import StartError
from oncecast.embedded.control import NAME, Command, serve_control


async def test_a_folder_in_which_no_socket_can_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()

    async def handle(_: Command) -> None:
        raise AssertionError("nobody asks")

    with pytest.raises(StartError, match=f"^cannot make a socket in {tmp_path}: .*; --data names another folder$"):
        await serve_control(tmp_path, handle)
