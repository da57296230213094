"""The measurements on ``docs/sensors.md``."""

from __future__ import annotations

from typing import Any

from tools.benchmark.pages import config_option, markdown, measured, records_of

SETS = {"argoverse": "Argoverse 1", "nuscenes": "nuScenes"}
COMMAND = "python -m tools.benchmark mounting --argoverse $ARGOVERSE --nuscenes $NUSCENES"


def sensor_rows() -> str:
    """Cars found in sweeps of other LiDARs, with and without ``--auto-sensor``, by every network that was measured."""
    rows, origins = [], []
    for file, record in records_of("mounting").items():
        name = record["network"]
        for key, facts in record["sets"].items():
            for run, values in facts["runs"].items():
                start = [f"`{name}`", f"{SETS[key]}, {_count(facts['sweeps'], 'sweep')}", _sensor(run, values)]
                rows += [[*start, *_cells(row, facts["cars"])] for row in values["scores"]]
        origins.append(measured(record, COMMAND + config_option(name), file))
    head = ["network", "sweeps", "sensor", "score from", "cars found", "false boxes", "height error"]
    return "\n\n".join([markdown(head, rows), *origins])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _sensor(run: str, values: dict[str, Any]) -> str:
    height_m = values["sensor"]["height_m"]
    if run == "as it is":
        return run
    return f"`{run}`: {'height as trained' if height_m is None else f'{height_m:.2f} m'}"


def _cells(row: dict[str, Any], cars: int) -> list[str]:
    error_m = row["height_error_m"]
    error = "" if error_m is None else f"{error_m:+.2f} m"
    return [f"{row['score']:.2f}", f"{row['found']} of {cars} ({row['recall']:.0%})", str(row["false"]), error]
