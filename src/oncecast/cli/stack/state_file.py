"""Read `stack.json`, in which `oncecast up` records the addresses of a stack's processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from oncecast.core.errors import ConfigError

Data = Annotated[Path, Parameter(help="The folder of a stack that `oncecast up` started.")]
DEFAULT_DATA = Path(".oncecast")
DEFAULT_PRODUCER = "http://localhost:8080"
DEFAULT_LISTENER = "http://localhost:3001"


class ProcessEntry(msgspec.Struct, kw_only=True):
    """A process from the state file, completed with its response."""

    name: str
    pid: int | None = None
    address: str | None = None
    state: str = ""
    health: dict[str, Any] | None = None
    trouble: str = ""
    """Why it did not respond."""

    @property
    def is_well(self) -> bool:
        """Whether the process runs and is healthy."""
        return self.state in ("ok", "running")

    @property
    def exit_status(self) -> int:
        """0 if it is well, 1 if it works with limits or is draining, 2 if it does not work."""
        if self.is_well:
            return 0
        return 1 if self.state in ("degraded", "draining") else 2


def entries(data: Path) -> list[ProcessEntry]:
    """Return the processes of the stack in the folder `data`; none without a stack. Raises ConfigError."""
    file = data / "stack.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[ProcessEntry])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None


def addresses(kind: str, given: str | None, data: Path) -> list[str]:
    """Return addresses of a `producer` or `listener`: as given, else those of the stack, else the default.

    Several listeners may be given, separated by commas. In a running stack, return the running processes, or all if
    none runs. Raises ConfigError.
    """
    if given is not None:
        several = [address for address in map(str.strip, given.split(",")) if address]
        return several if kind == "listener" and several else [given]
    stack = entries(data)
    ours = [e for e in stack if e.name.startswith(kind) and e.address]
    if ours and any(e.state == "running" for e in stack):
        return [str(e.address) for e in [e for e in ours if e.state == "running"] or ours]
    return [DEFAULT_PRODUCER if kind == "producer" else DEFAULT_LISTENER]
