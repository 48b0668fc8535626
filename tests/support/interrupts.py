"""Ctrl-C for a process of a test, whoever runs the tests: what runs in the background may have it ignored."""

from __future__ import annotations

import signal


def interrupts_count() -> None:
    """Before the process begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
