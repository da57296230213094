"""The README is true: its Python runs, its options exist, its stage table is the stage table."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from detector.cli import main
from detector.stages import STAGES
from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_python_snippet_runs(tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    write_object(tmp_path / "demo" / "drive", simulate_drive(2, seed=7))
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["000000", "000001"]


@pytest.mark.parametrize("command", ["detect", "doctor", "evaluate", "profile", "sample", "stream", "tune", "view"])
def test_options_exist(command):
    text = CliRunner().invoke(main, [command, "--help"]).output
    blocks = re.findall(rf"roadblocks {command} .*(?:\n +[\[-].*)*", README)
    mentioned = {option for block in blocks for option in re.findall(r"--[a-z-]+", block)}
    assert all(option in text for option in mentioned), mentioned
    assert mentioned


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.stage.value)
def test_stage_table(row):
    assert f"| {row.stage.value} | {row.owner} | {row.takes} | {row.gives} |" in README
