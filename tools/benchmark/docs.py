"""``python -m tools.benchmark docs``: the table of ops in docs/kernels.md, written from the kernel table."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from detector.cli import messages
from detector.errors import ExitCode, RoadblocksError
from detector.files import write_whole
from kernels.op import Exact, Op
from kernels.table import OPS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
BEGIN, END = "<!-- ops: written by python -m tools.benchmark docs --write -->", "<!-- end of ops -->"


def op_rows() -> str:
    """The table of ops as Markdown."""
    lines = ["| op | computes | backends agree | CUDA | module |", "|---|---|---|---|---|"]
    for op in OPS:
        module = inspect.getmodule(op.function)
        file = f"kernels/{module.__name__.split('.')[-1]}.py" if module else "?"
        cuda = str(len(op.cuda)) if op.cuda else "–"
        lines.append(f"| `{op.name}` | {op.summary} | {_equality(op)} | {cuda} | [`{file}`](../{file}) |")
    return "\n".join(lines)


def _equality(op: Op) -> str:
    if isinstance(op.equality, Exact):
        return "exactly"
    return f"to {op.equality.tolerance:g}: {op.equality.reason}"


def render(page: str) -> str:
    """The page with the table as it has to be.

    Raises:
        RoadblocksError: if the page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RoadblocksError(f"{PAGE}: no place for the table, expected the lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{op_rows()}\n{END}{after}"


@click.command()
@click.option("--write", is_flag=True, help="Write the page; without it only tell whether it is as it has to be.")
def docs(write: bool) -> None:
    """Keep the table of ops in docs/kernels.md as the kernel table is."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = render(page)
    if write and page != wanted:
        write_whole(PAGE, wanted)
    elif page != wanted:
        messages.print(f"{PAGE}: its table of ops is old; run python -m tools.benchmark docs --write", soft_wrap=True)
        sys.exit(ExitCode.FAILED)
