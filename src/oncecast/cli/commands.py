"""All commands of `oncecast`, by name. A command is imported when it is run, so that none waits for the others."""

from __future__ import annotations

from importlib.metadata import version

import cyclopts

app = cyclopts.App(
    name="oncecast",
    help="Broadcast to many, processed once, whatever fails.",
    version=version("oncecast"),
    help_epilogue="Try it: `oncecast up`, then `oncecast send events.ndjson` in another terminal.",
    result_action="return_value",
)

_COMMANDS = {
    "Processes": {"producer": "processes:producer", "listener": "processes:listener"},
    "The embedded stack": {
        "up": "stack.commands:up",
        "stop": "stack.commands:stop",
        "start": "stack.commands:start",
        "kill": "stack.commands:kill",
        "demo": "stack.commands:demo",
        "status": "stack.status:status",
        "sql": "stack.sql:sql",
        "chaos": "chaos:chaos",
        "bench": "bench:bench",
    },
    "Events": {"send": "events.publish:send", "tail": "events.publish:tail"},
    "Operations": {
        "events": "events.ended:app",
        "dead-letters": "dead_letters.show:app",
        "conflicts": "conflicts:app",
        "groups": "operate:groups",
        "journal": "operate:journal",
        "prune": "operate:prune",
        "migrate": "migrate:migrate",
        "doctor": "doctor.command:doctor",
    },
}

for _group, _places in _COMMANDS.items():
    for _name, _place in _places.items():
        app.command(f"oncecast.cli.{_place}", name=_name, group=_group)


def load_all() -> None:
    """Import every command: the list of commands shows what each does."""
    for name in app:
        app[name]
