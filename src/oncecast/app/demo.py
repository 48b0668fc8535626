"""The application of a listener that was given none: it only stores, but can be made to fail, for all to watch."""

from __future__ import annotations

from oncecast.app.application import App
from oncecast.core.event import Event
from oncecast.core.transaction import Transaction

FAILING = "oncecast.failing"


def demonstration() -> App:
    """Stores every event; one of type `oncecast.failing` fails for as long as its data says `{"fails": true}`."""
    app = App()

    @app.on(FAILING)
    async def fail_when_told(event: Event, tx: Transaction) -> None:
        if isinstance(event.data, dict) and event.data.get("fails"):
            raise RuntimeError("this event was sent to fail")

    return app
