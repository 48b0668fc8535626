"""Requests' bodies as CloudEvents: parse, check, complete."""
