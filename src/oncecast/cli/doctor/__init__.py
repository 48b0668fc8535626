"""The command `doctor`: check settings, machine and servers before something goes wrong."""
