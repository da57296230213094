"""What `roadblocks doctor` finds: findings with what to do about them, and the list of checks that make them.

A check is a function that gives findings. It imports what it looks at by itself, because that may be what is broken:
whatever it raises becomes a finding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

from rich.table import Table
from rich.text import Text


class State(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # something is slower or missing than it could be; `detect` runs
    FAILURE = "failure"  # `detect` cannot run, or cannot be trusted


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it belongs to.
        name: what was looked at.
        found: what is there.
        state: how bad it is.
        advice: what to do; empty if nothing.
    """

    topic: str
    name: str
    found: str
    state: State = State.OK
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as plain values."""
        return {**vars(self), "state": self.state.value}


Check = Callable[[str], Iterable[Finding]]

# Topic → functions, each with the module that holds it. They take the name or file of a configuration.
CHECKS: tuple[tuple[str, str, str], ...] = (
    ("machine", "detector.doctor_machine", "check_machine"),
    ("threads", "detector.doctor_machine", "check_threads"),
    ("gpu", "detector.doctor_gpu", "check_gpu"),
    ("packages", "detector.doctor_packages", "check_packages"),
    ("disk", "detector.doctor_disk", "check_disk"),
    ("network", "detector.doctor_network", "check_weights"),
    ("kernels", "detector.doctor_kernels", "check_kernels"),
    ("kernels", "detector.doctor_kernels", "check_threading_layer"),
    ("detect", "detector.doctor_network", "check_detect"),
)


def examine(config: str, checks: Iterable[tuple[str, str, str]] = CHECKS) -> Iterator[Finding]:
    """The findings of all checks, as they come.

    Args:
        config: name or file of the configuration that `detect` would be run with.
        checks: topic, module and function of each.
    """
    for topic, module, name in checks:
        try:
            check: Check = getattr(import_module(module), name)
            yield from check(config)
        except Exception as error:  # a broken installation breaks anywhere; the report must go on
            reason = f"{type(error).__name__}: {error}"
            advice = "install again in a fresh environment: pip install --force-reinstall 'roadblocks'"
            yield Finding(topic, name.removeprefix("check_").replace("_", " "), reason, State.FAILURE, advice)


def worst(findings: Iterable[Finding]) -> State:
    """The state of the worst of some findings; OK where there are none."""
    return max((finding.state for finding in findings), key=list(State).index, default=State.OK)


COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILURE: "red"}


def findings_table(findings: Iterable[Finding], title: str) -> Table:
    """The findings, a section per topic."""
    table = Table(title=title)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    topic = ""
    for finding in findings:
        if topic and finding.topic != topic:
            table.add_section()
        state = Text(finding.state.value, style=COLOURS[finding.state])
        name = finding.name if finding.topic == finding.name else f"{finding.topic}: {finding.name}"
        table.add_row(state, name, Text(finding.found), Text(finding.advice))
        topic = finding.topic
    return table


def report_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings and their verdict as plain values."""
    found = list(findings)
    return {"verdict": worst(found).value, "findings": [finding.to_json() for finding in found]}
