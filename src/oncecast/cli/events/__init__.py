"""The commands that publish, follow and list events."""
