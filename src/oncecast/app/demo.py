"""The built-in application of a listener without one: it stores events, and fails some on request."""

from __future__ import annotations

from oncecast.app.application import App
from oncecast.core.transaction import Transaction
from oncecast.event import Event

FAILING = "oncecast.failing"


def demonstration() -> App:
    """Return an application that stores events, but fails `oncecast.failing` while its data has `"fails": true`."""
    app = App()

    @app.on(FAILING)
    async def fail_on_request(event: Event, tx: Transaction) -> None:
        if isinstance(event.data, dict) and event.data.get("fails"):
            raise RuntimeError("this event was sent to fail")

    return app
