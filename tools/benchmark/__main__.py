"""``python -m tools.benchmark``: every measurement is a command."""

from __future__ import annotations

from importlib import import_module

import click

from detector.cli import FriendlyGroup

# Command → module of this package that holds a command of that name; imported when asked for.
COMMANDS = {
    "ablations": "ablations",
    "accuracy": "accuracy",
    "budgets": "budgets",
    "cost": "cost",
    "docs": "docs",
    "failures": "failures",
    "kernels": "kernel_times",
    "masks": "mask_sources",
    "mounting": "mounting",
    "pipeline": "pipeline",
    "ptx": "ptx",
    "road": "road",
    "sbnet": "sbnet",
    "scores": "scores",
    "simulation": "simulation",
    "stream": "stream",
    "sweeps": "sweeps",
}


class Benchmarks(FriendlyGroup):
    """The commands of `COMMANDS`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"tools.benchmark.{COMMANDS[name]}"), name)
        return command


@click.group(cls=Benchmarks, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure this machine. Numbers belong to the machine, date and revision that their JSON file names."""


if __name__ == "__main__":
    main(prog_name="python -m tools.benchmark")
