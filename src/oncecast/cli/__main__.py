"""`python -m oncecast.cli`, for where the command is not on the path."""

from oncecast.cli import main

main()
