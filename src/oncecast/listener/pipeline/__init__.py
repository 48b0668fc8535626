"""An event's way through the listener: claim, attempt, settle, cursor."""
