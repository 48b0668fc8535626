"""An application whose handlers fork; each child ends in its own way, and its parent records how."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time

from oncecast import App, Event, SyncTransaction, Transaction

app = App("oncecast")

TABLES = """
create table if not exists public.effects (id text primary key, count integer not null);
create table if not exists public.children (id text primary key, status integer not null);
"""
EFFECT = "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1"
CHILD = "insert into public.children values (%s, %s) on conflict (id) do update set status = excluded.status"


@app.on("counted")
async def count(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))
    await asyncio.sleep(0.002)
    await tx.execute("select 1")


async def end_child(end: str, tx: Transaction) -> None:
    match end:
        case "sys.exit":
            sys.exit(3)
        case "an exception":
            raise ValueError("only the child's")
        case "os._exit":
            os._exit(3)
        case "it awaits":
            await asyncio.sleep(0)
        case "it writes":
            await tx.execute("insert into public.effects values ('of a child', 1)")
    # "it returns" does nothing


@app.on("forks")
async def fork(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))
    if (pid := os.fork()) == 0:
        await end_child(event.data["end"], tx)
        return
    await record(event, tx, pid)


async def record(event: Event, tx: Transaction, pid: int) -> None:
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    await tx.execute(CHILD, (event.id, os.waitstatus_to_exitcode(status)))


@app.on("forks.in-a-task")
async def fork_in_a_task(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))

    async def forked() -> int:
        if (pid := os.fork()) == 0:
            await end_child(event.data["end"], tx)
            return 0
        return pid

    async with asyncio.TaskGroup() as group:
        task = group.create_task(forked())
    await record(event, tx, task.result())


@app.on("forks.in-an-executor")
async def fork_in_an_executor(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))
    await record(event, tx, await asyncio.to_thread(os.fork))


@app.on("forks.in-a-thread")
def fork_in_a_thread(event: Event, tx: SyncTransaction) -> None:
    tx.execute(EFFECT, (event.id,))
    if (pid := os.fork()) == 0:
        match event.data["end"]:
            case "sys.exit":
                sys.exit(3)
            case "an exception":
                raise ValueError("only the child's")
            case "it writes":
                tx.execute("insert into public.effects values ('of a child', 1)")
        return
    tx.execute(CHILD, (event.id, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


@app.on("forks.by-multiprocessing")
async def fork_by_multiprocessing(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))
    context = multiprocessing.get_context("fork")
    mine, childs = context.Pipe()
    process = context.Process(target=childs.send, args=("its pipe works",))
    process.start()
    answer = await asyncio.to_thread(mine.recv)
    await asyncio.to_thread(process.join)
    await tx.execute(CHILD, (event.id, process.exitcode if answer == "its pipe works" else -1))


@app.on("forks.and-terminates")
async def fork_and_terminate(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    await asyncio.to_thread(process.join)
    await tx.execute(CHILD, (event.id, process.exitcode))


@app.on("forks.by-subprocess")
async def fork_by_subprocess(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, (event.id,))

    def before_exec() -> None:
        if event.data["end"] == "sys.exit":
            sys.exit(3)

    try:
        status = subprocess.run(["/bin/true"], preexec_fn=before_exec).returncode
    except subprocess.SubprocessError:
        status = -1
    await tx.execute(CHILD, (event.id, status))


@app.on("forks.and-lives")
async def fork_and_live(event: Event, tx: Transaction) -> None:
    """Its child outlives it, and knows when to end."""
    await tx.execute(EFFECT, (event.id,))
    if os.fork() == 0:
        while not os.path.exists(event.data["until"]):
            time.sleep(0.05)
        os._exit(0)
