"""``docs/simulator.md``: the page of a comparison, written from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.benchmark.pages import NAMES, markdown, measured
from tools.benchmark.simulation_distance import DRAWS, HIGH
from tools.benchmark.simulation_quantities import LOW_Z_M, NEAR_M, QUANTITIES, REFERENCE_M, SIDE_REACH_M

Row = Mapping[str, Any]

GROUPS = {"cars": "Cars", "points": "Points"}
HEAD = (
    "quantity",
    "unit",
    "values, real / simulated",
    "median, real / simulated",
    "distance",
    f"real halves, median (up to {HIGH:.0%})",
)


def write_page(record: Mapping[str, Any], stem: str) -> str:
    """The page in Markdown.

    Args:
        record: of a comparison.
        stem: of the page's file; its pictures are named after it, see `picture_file`.
    """
    sections = [
        "# Simulated beside real frames",
        "<!-- written by python -m tools.benchmark simulation: run it again instead of editing -->",
        _introduction(record),
        _commands(record),
    ]
    for group, title in GROUPS.items():
        rows = [row for row in record["quantities"] if QUANTITIES[row["key"]].group == group]
        picture = f"![{title}: real distributions filled grey, simulated as a line]({stem}_{group}.png)"
        sections += [f"## {title}", picture, markdown(HEAD, [_cells(row) for row in rows])]
    sections += ["## What still differs", _differences(record["quantities"])]
    if record["detectors"]:
        sections += ["## A detector trained on it", _detectors(record["detectors"])]
    sections += ["## Simulated pictures", f"![Ten simulated frames seen from above]({stem}_pictures.png)", _pictures()]
    return "\n\n".join([*sections, "## How it is measured", _method(record)]) + "\n"


def picture_file(page: Path, name: str) -> Path:
    """Where a picture of the page lies: beside it."""
    return page.with_name(f"{page.stem}_{name}.png")


def differing(rows: list[Row]) -> list[Row]:
    """The quantities that are farther apart than halves of the real frames, the farthest first."""
    known = [row for row in rows if row["distance"] is not None and row["floor"]["high"] is not None]
    apart = [row for row in known if row["distance"] > row["floor"]["high"]]
    return sorted(apart, key=lambda row: -row["distance"])


def _introduction(record: Mapping[str, Any]) -> str:
    known = [row for row in record["quantities"] if row["distance"] is not None]
    within = len(known) - len(differing(known))
    real, simulated = record["real"], record["simulated"]
    return (
        f"{simulated['frames']} simulated frames against {real['frames']} real ones. The distance is "
        "the two-sample statistic of Kolmogorov and Smirnov: the widest gap between the two cumulative "
        "distributions, 0 if they are alike, 1 if they share no value; 0.1 says that a tenth of the values lies "
        "elsewhere. Two halves of the real frames are apart as well: no simulator can be asked for less. "
        f"**{within} of {len(known)} quantities are no farther apart than the real halves**; the others are in bold."
    )


def _commands(record: Mapping[str, Any]) -> str:
    made_by = [f"`{command}`, then " for command in record["simulated"]["made_by"] if command]
    return "".join(made_by) + measured(dict(record), record["command"], "simulator")


def _cells(row: Row) -> list[str]:
    quantity, floor = QUANTITIES[row["key"]], row["floor"]
    distance = show_distance(row["distance"])
    if differing([row]):
        distance = f"**{distance}**"
    values, medians = (
        " / ".join(show_value(row[side][fact]) for side in ("real", "simulated")) for fact in ("values", "median")
    )
    floors = f"{show_distance(floor['median'])} ({show_distance(floor['high'])})"
    return [quantity.name, quantity.unit, values, medians, distance, floors]


def show_distance(distance: float | None) -> str:
    """Two decimals, or a dash where there is none."""
    return "–" if distance is None else f"{distance:.2f}"


def show_value(value: float | None) -> str:
    """A value of a quantity: as precise as it is of use."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _differences(rows: list[Row]) -> str:
    apart = differing(rows)
    if not apart:
        return "Nothing: no quantity is farther apart than two halves of the real frames."
    lines = ["Farthest first; the shares are those where the gap is widest.", ""]
    for row in apart:
        quantity, (real, simulated) = QUANTITIES[row["key"]], row["shares"]
        lines.append(
            f"- **{quantity.name}**: {row['distance']:.2f}, where real halves reach {row['floor']['high']:.2f}. "
            f"{simulated:.0%} of the simulated values and {real:.0%} of the real ones are at most "
            f"{show_value(row['at'])} ({quantity.unit})."
        )
    return "\n".join(lines)


def _detectors(detectors: list[Row]) -> str:
    head = ["trained on", "steps", *NAMES.values()]
    rows = [
        [row["trained_on"], str(row["steps"]), *(f"{row['ap'][metric]:.1f}" for metric in NAMES)] for row in detectors
    ]
    return (
        "Car AP R40 moderate on the real frames of `configs/splits/kitti_val.txt`, of networks trained by the same "
        "schedule, `configs/train/simulated.yaml`: half an hour on two CPU cores (`python -m tools.train run "
        "--config train/simulated --data FOLDER --out RUN`, then `export`).\n\n"
        f"{markdown(head, rows)}"
    )


def _pictures() -> str:
    return (
        "From the first frame to the last at even distances; cars are outlined. Real frames may not be shown here: "
        "`--pictures FILE` puts ten of them beside ten simulated ones, for your own eyes."
    )


def _method(record: Mapping[str, Any]) -> str:
    real = record["real"]
    halves = (
        f"drives, of which there are {real['groups']}, are kept whole, because frames of one drive are alike"
        if real["groups"] < real["frames"]
        else "frames are drawn one by one, which makes halves that share drives, and floors that are rather low"
    )
    lines = [
        "Points are those in the camera's view, cars are the labels of type Car.",
        f"A ring is the beam of `{record['sensor']}` whose line passes nearest to the point.",
        f"Points per visible car: of cars with occlusion level 0 within {SIDE_REACH_M:g} m, times (range / "
        f"{REFERENCE_M:g} m)²; the side seen is the face that fills most of the view.",
        f"Below {LOW_Z_M:g} m and within {NEAR_M:g} m are road and pavement, mostly.",
        "Occupied cells and active tiles are those of the detector's own grid, with its default mask and margin.",
        f"Real halves: {DRAWS} random ones; {halves}. Their median and the value that {HIGH:.0%} of them keep. "
        "A half has half of the values, so that these distances are noisier than one between all frames.",
        "Frames of one simulated drive are alike too: distances per frame need many drives to mean much.",
    ]
    return "\n".join(f"- {line}" for line in lines)
