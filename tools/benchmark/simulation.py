"""``python -m tools.benchmark simulation``: distributions of simulated frames over those of real ones, and a page."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.errors import SourceError
from detector.files import write_whole
from detector.labels import CAR, read_labels
from detector.pipeline import Pipeline
from detector.sources import FrameFile
from models.network import load_network
from tools.benchmark.accuracy import labelled_source
from tools.benchmark.pages import NAMES
from tools.benchmark.report import emit, origin
from tools.benchmark.simulation_distance import DRAWS, Sample, draw_half, real_floor, widest_gap
from tools.benchmark.simulation_page import GROUPS, differing, picture_file, show_distance, show_value, write_page
from tools.benchmark.simulation_pictures import draw_sheet
from tools.benchmark.simulation_plot import draw_group
from tools.benchmark.simulation_quantities import QUANTITIES, measure_frame
from tools.simulate import MARKER, sample
from tools.simulation.sensor import Sensor, load_sensor

SEED = 0  # of the halves


@dataclass(frozen=True)
class Measured:
    """The values of every quantity in each of some frames.

    Attributes:
        files: the frames.
        frames: of each quantity one sample per frame.
        pooled: of each quantity the sample of all frames.
    """

    files: tuple[FrameFile, ...]
    frames: Mapping[str, Sequence[Sample]]
    pooled: Mapping[str, Sample]

    @classmethod
    def of(cls, files: Sequence[FrameFile], pipeline: Pipeline, sensor: Sensor, what: str) -> Measured:
        """Reads and measures the frames.

        Raises:
            SourceError: if there are none, or one has no labels or no calibration.
            FrameError, LabelError: if one is broken.
        """
        if not files:
            raise SourceError(f"no {what} frames; expected some: is the frame list one of this folder?")
        found = []
        for file in track(files, f"{what} frames", console=messages, transient=True):
            frame, label_path = file.load(), file.label_path
            if frame.calibration is None or label_path is None:
                raise SourceError(
                    f"{file.path}: has no label_2 or no calib file; expected KITTI object layout with both"
                )
            found.append(measure_frame(frame, frame.calibration, read_labels(label_path), pipeline, sensor))
        frames = {key: [values[key] for values in found] for key in QUANTITIES}
        return cls(tuple(files), frames, {key: Sample.pool(samples) for key, samples in frames.items()})


def compare(real: Measured, simulated: Measured, groups: Sequence[str]) -> list[dict[str, Any]]:
    """Per quantity: medians, distance, where the gap is widest, and the floor between halves of the real frames.

    Args:
        real: the real frames.
        simulated: the simulated ones.
        groups: the drive of every real frame, or any names that differ.
    """
    rng = np.random.default_rng(SEED)
    halves = [draw_half(groups, rng) for _ in range(DRAWS)]
    rows = []
    for key in QUANTITIES:
        one, other = real.pooled[key], simulated.pooled[key]
        gap, floor = widest_gap(one, other), real_floor(real.frames[key], halves)
        rows.append(
            {
                "key": key,
                "real": _facts(one),
                "simulated": _facts(other),
                "distance": _known(gap.distance),
                "at": _known(gap.at),
                "shares": [_known(share) for share in gap.shares],
                "floor": {"median": _known(floor[0]), "high": _known(floor[1])},
            }
        )
    return rows


def _facts(sample: Sample) -> dict[str, float | None]:
    return {"values": float(sample.weights.sum()), "median": _known(sample.quantile(0.5))}


def _known(number: float) -> float | None:
    """JSON has no NaN."""
    return round(number, 6) if np.isfinite(number) else None


def read_drives(file: Path, frame_ids: Sequence[str]) -> list[str]:
    """The drive of every frame, from a CSV file, gzipped or not, with the columns frame and drive.

    Raises:
        SourceError: if the file cannot be read, or does not know a frame.
    """
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
        drives = {row["frame"]: row["drive"] for row in csv.DictReader(io.StringIO(text))}
    except (OSError, EOFError, UnicodeDecodeError, KeyError) as error:
        raise SourceError(f"{file}: cannot be read ({error}); expected CSV with the columns frame and drive") from error
    unknown = [frame_id for frame_id in frame_ids if frame_id not in drives]
    if unknown:
        raise SourceError(f"{file}: has no frame {unknown[0]}; expected all {len(frame_ids)} real frames")
    return [drives[frame_id] for frame_id in frame_ids]


def sample_command(folder: Path) -> str | None:
    """The command that made a simulated drive, from the marker that it left; None of another folder."""
    if not (folder / MARKER).is_file():
        return None
    made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    words = ["roadblocks", "sample", folder.name]
    for option in sample.params:
        value = made.get(option.name)
        if value is not None and value is not False and value != option.default:
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return " ".join(words)


def read_detector(text: str) -> dict[str, Any]:
    """What a network says of itself: how long it was trained, and its average precision.

    Args:
        text: NAME=FILE, an ONNX file that ``python -m tools.train export`` wrote.

    Raises:
        SourceError: if there is no name, or the network says nothing about its precision.
        ModelError: if the file cannot be read.
    """
    name, separator, file = text.partition("=")
    if not (name and separator):
        raise SourceError(f"--detector {text}: expected NAME=FILE, for example '1,000 simulated frames=simulated.onnx'")
    info = load_network(file).info
    if not info.ap.get(CAR):
        raise SourceError(f"{file}: names no average precision of {CAR}; expected a file of `tools.train export`")
    ap = {metric: info.ap[CAR][metric]["R40"]["moderate"] for metric in NAMES}
    return {"trained_on": name, "steps": info.training.get("steps"), "ap": ap}


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Distance of every quantity, beside the floor."""
    table = Table("quantity", title="Kolmogorov-Smirnov distance, simulated to real; bold beyond real halves")
    for name in ("real", "simulated", "distance", "real halves"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [show_value(row[side]["median"]) for side in ("real", "simulated")]
        cells += [show_distance(distance) for distance in (row["distance"], row["floor"]["high"])]
        table.add_row(QUANTITIES[row["key"]].name, *cells, style="bold" if differing([row]) else None)
    return table


@click.command()
@click.argument("real", type=click.Path(path_type=Path, exists=True))
@click.argument("simulated", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the real frames to count.")
@click.option("--drives", type=click.Path(path_type=Path, exists=True), help="CSV: frame and drive of the real frames.")
@click.option("--sensor", default="hdl64e", show_default=True, help="Beams, for rings: shipped sensor or a YAML file.")
@click.option("--detector", "detectors", multiple=True, metavar="NAME=FILE", help="Network and what it was trained on.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
@click.option(
    "--page", type=click.Path(path_type=Path), help="Write the page, and its plots beside it (extra 'plots')."
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Write ten real pictures beside ten simulated ones.")
def simulation(
    real: Path,
    simulated: tuple[Path, ...],
    split: Path | None,
    drives: Path | None,
    sensor: str,
    detectors: tuple[str, ...],
    json_file: str | None,
    page: Path | None,
    pictures: Path | None,
) -> None:
    """Distances between distributions of SIMULATED frames and REAL ones, both in KITTI object layout.

    The record and the page hold no real frame; the pictures do: keep KITTI's to yourself.

    \b
    python -m tools.benchmark simulation $KITTI drive --split configs/splits/kitti_train.txt --page docs/simulator.md
    """
    pipeline, beams = Pipeline.from_config("kitti", device="cpu"), load_sensor(sensor)
    real_files = labelled_source(real, split)[0].frames
    simulated_files = [file for folder in simulated for file in labelled_source(folder, None)[0].frames]
    one = Measured.of(real_files, pipeline, beams, "real")
    ids = [file.id for file in real_files]
    groups = ids if drives is None else read_drives(drives, ids)
    other = Measured.of(simulated_files, pipeline, beams, "simulated")
    options = "".join(
        f" --{name} {file}" for name, file in (("split", split), ("drives", drives and drives.name)) if file
    )
    record = {
        "command": f"python -m tools.benchmark simulation $KITTI {' '.join(f.name for f in simulated)}{options}",
        "real": {"frames": len(real_files), "groups": len(set(groups))},
        "simulated": {"frames": len(simulated_files), "made_by": [sample_command(folder) for folder in simulated]},
        "sensor": sensor,
        "detectors": [read_detector(text) for text in detectors],
        "quantities": compare(one, other, groups),
        **origin(),
    }
    emit(json_file, record, comparison_table(record["quantities"]))
    if page is not None:
        _write_page(page, record, one, other)
    if pictures is not None:
        draw_sheet([("real", real_files), ("simulated", simulated_files)], columns=2).save(pictures)


def _write_page(page: Path, record: Mapping[str, Any], real: Measured, simulated: Measured) -> None:
    """The page, its plots, and pictures of simulated frames."""
    rows = {row["key"]: row for row in record["quantities"]}
    for group in GROUPS:
        draw_group(group, real.pooled, simulated.pooled, rows, picture_file(page, group))
    sheet = draw_sheet([("simulated", simulated.files)], columns=5)
    sheet.quantize(64).save(picture_file(page, "pictures"), optimize=True)
    write_whole(page, write_page(record, page.stem))
