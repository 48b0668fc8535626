"""The listener: feeds receive events, `pipeline` ends them, and `service` runs all its tasks."""
