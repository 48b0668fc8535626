"""The listener: one file per station of an event's way, joined by `service`."""
