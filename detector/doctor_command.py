"""`roadblocks doctor`: whether this machine, or this recording, is fit for `detect`, and what to do if not."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from detector.cli import emit_json, messages, results
from detector.doctor import Finding, State, examine, findings_table, report_json, worst
from detector.errors import ExitCode
from detector.machine import origin


@click.command()
@click.argument("source", required=False)
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--json", "json_file", help="Write the findings as JSON; - is stdout.")
def doctor(source: str | None, config: str, json_file: str | None) -> None:
    """Look at this machine and installation, or at the sensor of SOURCE, and say what to do.

    Without SOURCE: processor, threads, GPU, packages, disk, weights, every kernel against its reference, one frame.
    With SOURCE, which is what `detect` takes: height above the ground, intensities and axes of a recording, and what
    to set.

    \b
    roadblocks doctor
    roadblocks doctor 2011_09_26/2011_09_26_drive_0005_sync

    Exit codes: 0 all fine or warnings only, 2 something keeps `detect` from running or from being right, 130 Ctrl-C.
    """
    if source is None:
        _examine_machine(config, json_file)
    else:
        _examine_recordings(source, config, json_file)


def _examine_machine(config: str, json_file: str | None) -> None:
    with messages.status("") as status:
        findings = []
        for finding in examine(config):
            findings.append(finding)
            status.update(f"{finding.topic}: {finding.name}")
    if json_file != "-":
        results.print(findings_table(findings, "This machine"))
        results.print(_verdict(findings))
    if json_file:
        emit_json(json_file, {**report_json(findings), **origin()})
    if worst(findings) is State.FAILURE:
        sys.exit(ExitCode.FAILED)


def _verdict(findings: list[Finding]) -> Text:
    """One line under the table."""
    words = {
        State.OK: "all is well",
        State.WARNING: "detect runs; the warnings say what could be better",
        State.FAILURE: "detect cannot run or cannot be trusted: see the failures",
    }
    return Text(words[worst(findings)])


def _examine_recordings(source: str, name: str, json_file: str | None) -> None:
    from detector.config import Config, load_config
    from detector.doctor_recording import estimate_source, recording_findings, recording_json, settings_yaml
    from detector.sources import open_sources

    config: Config = load_config(name)
    opened = open_sources([source])
    with messages.status("looking at frames …"):
        estimates = [estimate_source(each) for each in opened]
    pairs = list(zip(opened, estimates, strict=True))
    findings = [finding for each, found in pairs for finding in recording_findings(each.name, found, config)]
    if json_file != "-":
        results.print(findings_table(findings, "The sensor of the recording"))
        text = settings_yaml(estimates, config)
        if text:
            results.print(Text(f"As a configuration file:\n\n{text}"))
    if json_file:
        recordings = [recording_json(each, found, config) for each, found in pairs]
        emit_json(json_file, {**report_json(findings), "recordings": recordings, **origin()})
