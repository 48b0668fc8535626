"""Send one mail per parcel, although no transaction can undo a mail.

This example shows an idempotent effect outside PostgreSQL. A handler runs again if it fails after the call, if its
process dies, or if PostgreSQL does not commit. So each call sends the event's `(source, id)` as its idempotency key,
and the service sends the mail once. The lifespan owns the HTTP client.

    python examples/mail.py
    oncecast up --app mail:app --app-dir examples
    oncecast send examples/mail.ndjson
    curl -s localhost:8025/messages
    oncecast sql "select parcel, message, attempts from mails join mail.events e on e.id = event order by parcel"

Run the first command in another terminal: it is a service that keeps its messages in memory. Two events make their
handler fail after its first call: the service is called twice for them, and sends one mail each.
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
    """Create the tables, then yield one client for the life of the listener. Every call has a deadline."""
    await make(TABLES)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=5.0) as opened:
        yield opened


app = App("mail", lifespan=client)


@dataclass
class Parcel:
    """A parcel and its recipient. If it `stumbles`, its handler fails once, after the call."""

    parcel: str
    to: str
    stumbles: bool = False


@app.on("parcel.sent")
async def tell(parcel: Parcel, event: Event, tx: Transaction, service: httpx2.AsyncClient) -> None:
    """Send the mail under the event's own key, then store its number."""
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
    """Return 201 for a new message; for a known key return 200 and the same number, and send nothing."""
    messages = request.app.state.messages
    key, message = request.headers["Idempotency-Key"], await request.json()
    if "@" not in message["to"]:
        return JSONResponse({"error": f"{message['to']!r} is no address"}, 422)
    known = key in messages
    kept = messages.setdefault(key, {**message, "number": len(messages) + 1, "asked": 0})
    kept["asked"] += 1
    return JSONResponse({"number": kept["number"]}, 200 if known else 201)


async def get_messages(request: Request) -> JSONResponse:
    """Return all messages, and how often each was requested."""
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
