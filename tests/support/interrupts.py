"""Make Ctrl-C work in a test's process, even if the tests run in the background, where it may be ignored."""

from __future__ import annotations

import signal


def interrupts_count() -> None:
    """Restore the default of SIGINT; run this before the process starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
