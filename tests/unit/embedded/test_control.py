"""The socket by which other terminals reach a stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from oncecast.core.errors import StartError
from oncecast.embedded.control import SOCKET_NAME, Command, serve_control


async def test_a_folder_without_sockets_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).mkdir()

    async def handle(_: Command) -> None:
        raise AssertionError("nobody asks")

    with pytest.raises(StartError, match=f"^cannot make a socket in {tmp_path}: .*; --data names another folder$"):
        await serve_control(tmp_path, handle)
