"""An application whose handlers leave in every way that Python knows, and do worse to the event loop."""

import asyncio
import sys

from oncecast import App, Event, Transaction

app = App("oncecast")


@app.on("counted")
async def count(event: Event, tx: Transaction) -> None:
    await tx.execute(
        "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1",
        (event.id,),
    )


@app.on("exits.async")
async def leave() -> None:
    sys.exit(3)


@app.on("exits.thread")
def leave_in_a_thread() -> None:
    sys.exit(3)


@app.on("exits.task")
async def leave_in_a_task() -> None:
    await asyncio.create_task(_leave())


@app.on("exits.group")
async def leave_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_leave())
        group.create_task(asyncio.sleep(3600))


@app.on("exits.interrupt")
async def interrupt() -> None:
    raise KeyboardInterrupt


@app.on("stops.callback")
async def leave_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.01)


@app.on("stops.loop")
async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)


@app.on("cancels")
async def cancel_a_task(event: Event) -> None:
    for task in asyncio.all_tasks():
        if event.data in ("everything", task.get_name()):
            task.cancel()


async def _leave() -> None:
    sys.exit(3)
