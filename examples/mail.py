"""A mail for each parcel that was sent, though mails are outside of PostgreSQL and no transaction takes one back.

What it shows: an outside effect that is made idempotent. A handler runs again when it fails after the call, or its
process dies, or PostgreSQL does not commit; so each call carries the event's `(source, id)` as its idempotency key,
and the service does once what it is asked twice. A lifespan holds the client.

    python examples/mail.py
    oncecast up --app mail:app --app-dir examples
    oncecast send examples/mail.ndjson
    curl -s localhost:8025/messages
    oncecast sql "select parcel, message, attempts from mails join mail.events e on e.id = event order by parcel"

The first command, in a terminal of its own, is a service that keeps its messages in memory. Two events say that their
handler shall fail after its first call: they are asked for twice, and sent once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tables import make

from oncecast import App, Event, Reject, Retry, Transaction

TABLES = "create table if not exists mails (event text primary key, parcel text not null, message integer not null);"
PORT = int(os.environ.get("MAIL_PORT", "8025"))


async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """The tables first, then one client for as long as the listener runs; every call of it has a deadline."""
    await make(TABLES)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=5.0) as opened:
        yield opened


app = App("mail", lifespan=client)


@dataclass
class Parcel:
    """What was sent to whom. `stumbles`: its handler fails once, at the worst time."""

    parcel: str
    to: str
    stumbles: bool = False


@app.on("parcel.sent")
async def tell(parcel: Parcel, event: Event, tx: Transaction, service: httpx2.AsyncClient) -> None:
    """Ask for the mail under the event's own key, then write down which one it became."""
    key = f"{quote(event.source, safe='')}:{quote(event.id, safe='')}"
    message = {"to": parcel.to, "text": f"Parcel {parcel.parcel} is on its way."}
    try:
        answer = await service.post("/messages", json=message, headers={"Idempotency-Key": key})
    except httpx2.TransportError as error:
        raise Retry(f"the mail service does not answer: {error}", after="5s") from error
    if answer.status_code == httpx2.codes.UNPROCESSABLE_ENTITY:
        raise Reject(answer.json()["error"])
    answer.raise_for_status()
    if parcel.stumbles and answer.status_code == httpx2.codes.CREATED:
        raise RuntimeError("the mail is sent, and nothing of it is written down")
    await tx.execute(
        "insert into mails (event, parcel, message) values (%s, %s, %s)",
        (event.id, parcel.parcel, answer.json()["number"]),
    )


# --- the fake service ---------------------------------------------------------------------------------------


async def post_message(request: Request) -> JSONResponse:
    """201 for a new message; 200 with the same number for a key that is known: nothing is sent again."""
    messages = request.app.state.messages
    key, message = request.headers["Idempotency-Key"], await request.json()
    if "@" not in message["to"]:
        return JSONResponse({"error": f"{message['to']!r} is no address"}, 422)
    known = key in messages
    kept = messages.setdefault(key, {**message, "number": len(messages) + 1, "asked": 0})
    kept["asked"] += 1
    return JSONResponse({"number": kept["number"]}, 200 if known else 201)


async def get_messages(request: Request) -> JSONResponse:
    """All that were sent, and how often each was asked for."""
    return JSONResponse(list(request.app.state.messages.values()))


service = Starlette(
    routes=[
        Route("/messages", post_message, methods=["POST"]),
        Route("/messages", get_messages),
    ]
)
service.state.messages = {}

if __name__ == "__main__":
    uvicorn.run(service, host="127.0.0.1", port=PORT, log_level="warning")
