"""`python -m oncecast` is the command `oncecast`."""

from oncecast.cli import main

main()
