"""The commands `oncecast dead-letters …`."""
