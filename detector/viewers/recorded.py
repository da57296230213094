"""Output folders of `roadblocks detect`, read back: `open_run`.

The boxes and times are those of the run. Points come from the source that `run.json` names, or from where it has moved
to. Active tiles are not recorded, but for their number: the recorded configuration makes them again from the points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.config import Config, from_mapping
from detector.errors import SourceError
from detector.files import read_text
from detector.pipeline import Pipeline
from detector.run import MAX_RECORD_BYTES, RECORD
from detector.sinks import DETECTIONS, TIMING, complete_lines
from detector.sources import FrameFile, Source, open_sources
from detector.types import BOX_COLUMNS, Detections, FrameResult


@dataclass(frozen=True)
class RecordedFrame:
    """One frame of an output folder.

    Attributes:
        folder: the output folder of its source.
        file: where its points are.
        detections: boxes of the run, LiDAR frame.
        stage_ms: milliseconds per stage of the run; empty where they are not known.
        tiles_run: active tiles that ran; None where it is not known.
    """

    folder: Path
    file: FrameFile
    detections: Detections
    stage_ms: Mapping[str, float]
    tiles_run: int | None

    def load(self, pipeline: Pipeline) -> FrameResult:
        """What the run found, with the points and the active tiles.

        Args:
            pipeline: of the run's configuration.

        Raises:
            FrameError: if the points cannot be read.
        """
        frame = self.file.load()
        prepared = pipeline.prepare(frame).on_host()
        active = len(prepared.tiles)
        ran = pipeline.first_tiles(prepared, active if self.tiles_run is None else self.tiles_run).copy()
        counts = (len(ran), ran.spec.total, active - len(ran))
        mask = pipeline.choice.is_set(prepared.mask)
        return FrameResult(frame, self.detections, self.stage_ms, *counts, tiles=ran, mask=mask)


@dataclass(frozen=True)
class RecordedRun:
    """A run of `detect`: its configuration, its frames, source by source, and the file of its network."""

    config: Config
    frames: tuple[RecordedFrame, ...]
    model: Path

    def pipeline(self) -> Pipeline:
        """A pipeline for `RecordedFrame.load`: any machine will do, because only its half up to the tiles is run.

        Raises:
            RoadblocksError: if the network is not there any more, or the configuration cannot be used.
        """
        mask = "all" if self.config.execution == "dense" else None
        config = replace(self.config, model=str(self.model)) if self.model.is_file() else self.config
        return Pipeline.from_config(config, device="cpu", execution="sparse", mask=mask)


def open_run(out: Path, source: str | None = None, frames: slice | None = None) -> RecordedRun:
    """The run that wrote an output folder; no points are read yet.

    Args:
        out: output folder of `detect`, or one source's folder in it.
        source: where the frames are now; None for where the run found them.
        frames: which frames to keep of every source.

    Raises:
        SourceError: if ``out`` is no output folder, or its frames are not where they should be.
        ConfigError: if the recorded configuration is not one of this version.
    """
    out = out.absolute()
    record_path = next((folder / RECORD for folder in (out, out.parent) if (folder / RECORD).is_file()), None)
    if record_path is None:
        raise SourceError(f"{out}: no {RECORD}, expected an output folder of `roadblocks detect`")
    try:
        record = json.loads(read_text(record_path, MAX_RECORD_BYTES))
        config, model = record["config"], Path(record["model"]["path"])
        listed = [(entry["name"], Path(entry["path"])) for entry in record["sources"]]
        for name, _ in listed:
            if Path(name).name != name or name == "..":  # pictures are written there
                raise ValueError(f"source {name!r} is no name of a folder")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(f"{record_path}: not a record of `roadblocks detect` ({error!r}); run it again") from error
    kept: list[RecordedFrame] = []
    for name, path in listed:
        folder = record_path.parent / name if len(listed) > 1 else record_path.parent
        if out == record_path.parent or out == folder:
            opened = _open_source(name, source or path, record_path, len(listed) > 1)
            recorded = _read_folder(folder, opened)
            kept += recorded[frames or slice(None)]
    if not kept:
        wanted = "" if frames is None else f" in {frames.start or 0}:{'' if frames.stop is None else frames.stop}"
        raise SourceError(f"{out}: holds no frames{wanted}, expected an output folder of `roadblocks detect`")
    return RecordedRun(from_mapping(Config, config, f"{record_path}: config"), tuple(kept), model)


def _open_source(name: str, path: str | Path, record_path: Path, one_of_many: bool) -> Source:
    """The source of a name at a path, which may hold others beside it.

    Where the run had a single one, and the path holds a single one, that is it, whatever its name is now.
    """
    hint = "say where the frames are now: --source SOURCE"
    try:
        opened = open_sources([path])
    except SourceError as error:
        raise SourceError(f"{record_path}: its frames cannot be found ({error}); {hint}") from error
    if len(opened) > 1 or one_of_many:
        opened = [source for source in opened if source.name == name]
    if len(opened) != 1:
        raise SourceError(f"{path}: holds {len(opened)} sources named {name}, expected one; {hint}")
    return opened[0]


def _read_folder(folder: Path, source: Source) -> list[RecordedFrame]:
    """The frames of one source that its run has written so far."""
    files = {file.id: file for file in source.frames}
    timing = {frame: json.loads(line) for frame, line in complete_lines(folder, TIMING).items()}
    recorded = []
    for frame, line in complete_lines(folder, DETECTIONS).items():
        if frame not in files:
            raise SourceError(
                f"{folder / DETECTIONS}: frame {frame} is not in {source.path}, expected the source of the run; "
                "say where it is now: --source SOURCE"
            )
        detections = _detections(json.loads(line), f"{folder / DETECTIONS}: frame {frame}")
        stage_ms, tiles_run = _cost(timing.get(frame, {}))
        recorded.append(RecordedFrame(folder, files[frame], detections, stage_ms, tiles_run))
    return recorded


def _cost(record: dict[str, Any]) -> tuple[dict[str, float], int | None]:
    """Stage times and number of tiles of a line of timing.jsonl, as far as it tells them."""
    times, tiles_run = record.get("stage_ms"), record.get("tiles_run")
    times = times if isinstance(times, dict) else {}
    known = {name: float(ms) for name, ms in times.items() if isinstance(ms, int | float)}
    return known, tiles_run if isinstance(tiles_run, int) else None


def _detections(record: dict[str, Any], where: str) -> Detections:
    try:
        boxes = np.array(record["boxes"], np.float32).reshape(-1, len(BOX_COLUMNS))
        scores = np.array(record["scores"], np.float32)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("NaN or infinity")
        return Detections(boxes, scores, tuple(map(str, record["labels"])))
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{where}: not boxes, scores and labels ({error}); run `roadblocks detect` again") from error
