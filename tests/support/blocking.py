"""An application whose handlers block the event loop; each start of one is a line in the file BEGUN."""

import asyncio
import ctypes
import os
import re
import time

from oncecast import App, Event, Transaction

app = App("oncecast")

TABLES = "create table if not exists public.effects (id text primary key, count integer not null);"
EFFECT = "insert into public.effects values (%s, 1) on conflict (id) do update set count = public.effects.count + 1"
libc_with_the_interpreter_held = ctypes.PyDLL(None)


def block(how: str, seconds: float) -> None:
    """Block the event loop; all but `sleep` hold the interpreter's lock, too."""
    match how:
        case "sleep":
            time.sleep(seconds)
        case "interpreter":
            libc_with_the_interpreter_held.usleep(int(seconds * 1e6))
        case "pattern":
            length = 24
            began_s = time.monotonic()
            while (left_s := began_s + seconds - time.monotonic()) > 0:
                tried_s = time.monotonic()
                re.match(r"(a+)+$", "a" * length + "b")
                if (time.monotonic() - tried_s) * 2 < left_s:
                    length += 1


def begun(event: Event) -> None:
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{event.id}\n")


@app.on("blocks")
async def be_in_the_way(event: Event, tx: Transaction) -> None:
    begun(event)
    await tx.execute(EFFECT, (event.id,))
    block(event.data["how"], event.data["seconds"])


@app.on("counted")
async def count(event: Event, tx: Transaction) -> None:
    begun(event)
    await tx.execute(EFFECT, (event.id,))
    await asyncio.sleep(event.data["seconds"])
    await tx.execute("select 1")
