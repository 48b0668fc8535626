"""What a fork leaves behind in its parent."""

from __future__ import annotations

import asyncio
import signal
import threading

from oncecast import forks


async def test_two_threads_that_fork_at_the_same_time_both_get_their_signals_back() -> None:
    forks.guard(asyncio.get_running_loop())
    both_fork = threading.Barrier(2, timeout=30)
    blocked: list[set[signal.Signals | int]] = []

    def fork() -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        forks._before()
        both_fork.wait()
        forks._restore_signals()
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []) - before)

    threads = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert blocked == [set(), set()]
