"""docs/reliability.md is true as far as a machine can tell: the tests that it names exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")


def rows():
    """The cells of the table of faults."""
    lines = PAGE.split("## Faults")[1].split("##")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_row_names_a_test_that_exists():
    assert len(rows()) >= 40
    for fault, injected, happens, test in rows():
        assert fault and injected and happens
        file, name = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)` ?", test.rstrip("|").strip()).groups()
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_fault_is_told_once():
    faults = [row[0] for row in rows()]
    assert len(set(faults)) == len(faults)
