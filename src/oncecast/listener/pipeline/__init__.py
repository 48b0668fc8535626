"""The stages of an event in a listener: claim, attempt, settle, cursor."""
