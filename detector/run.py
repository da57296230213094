"""`detect_sources`: recorded frames through the pipeline into an output folder. What the command `detect` runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.boxes import boxes_from_labels
from detector.calibration import Calibration
from detector.errors import FrameError, LabelError, SourceError
from detector.files import locked, read_text, told_by_name, write_json
from detector.frame_checks import WarningLog
from detector.labels import CAR, NEIGHBOUR, read_labels
from detector.machine import machine, revision, versions
from detector.pipeline import Pipeline
from detector.sinks import OutputFolder, check_ours, clear_output
from detector.sources import BAD_IMAGE, FrameFile, Source, open_camera_image
from detector.stages import Stage, StageClock, summarize
from detector.types import FrameResult
from detector.view import render_bev

log = logging.getLogger("roadblocks")
RECORD = "run.json"
MAX_RECORD_BYTES = 100_000_000  # with a reason for every frame that was skipped
# What a run must share with one that it goes on from: one output folder, one configuration.
MUST_AGREE = ("config", "device", "model", "render", "sources")
SHOULD_AGREE = ("revision", "versions", "machine")  # or else bytes may differ in the last digits
Float64 = NDArray[np.float64]


@dataclass
class RunSummary:
    """What happened to the frames of a run.

    Attributes:
        frames: frames looked at, those done by an earlier run (``resumed``) included.
        good: frames that were written.
        boxes: boxes found.
        skipped: source, frame, kind and reason of every bad frame.
        faults: number of frames by what was wrong or doubtful about them, those of the earlier run included.
        stage_ms: milliseconds per stage of every good frame.
        interrupted: whether Ctrl-C ended the run.
    """

    frames: int = 0
    good: int = 0
    resumed: int = 0
    boxes: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    stage_ms: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Counts, reasons and stage percentiles."""
        counts = {name: value for name, value in asdict(self).items() if name != "stage_ms"}
        return {**counts, "stages": summarize(self.stage_ms)}


@dataclass(frozen=True)
class RunOptions:
    """How `detect_sources` treats frames."""

    render: bool = False
    stop_on_error: bool = False
    resume: bool = False


def detect_sources(
    pipeline: Pipeline,
    sources: Sequence[Source],
    out: Path,
    options: RunOptions = RunOptions(),
    on_frame: Callable[[], None] = lambda: None,
) -> RunSummary:
    """Detects on every frame of every source and writes the results under ``out``.

    Several sources get a folder each, ``out/NAME``. A bad frame is logged and skipped, or with
    ``options.stop_on_error`` ends the run. ``out/run.json`` records the run, however it ends.

    Args:
        pipeline: what detects.
        sources: from `detector.sources.open_sources`.
        out: output folder, made if missing.
        options: pictures, error policy, resuming.
        on_frame: called after every frame, for progress.

    Raises:
        FrameError: with ``stop_on_error``, for the first bad frame.
        SourceError: if ``out`` is a source's own folder, holds somebody else's label files, or cannot be resumed.
        OutputError: if ``out`` cannot be written, or the disk is full; what was written is valid and can be resumed.
    """
    summary = RunSummary()
    warnings = WarningLog(log.warning)
    summary.faults = warnings.counts
    record = _record(pipeline, sources, options)
    _refuse_sources_as_output(sources, out)
    with told_by_name(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        folders = [out / source.name if len(sources) > 1 else out for source in sources]
        _make_room(out, folders, record, options.resume)
        try:
            for source, folder in zip(sources, folders, strict=True):
                with OutputFolder(folder, [file.id for file in source.frames]) as output:
                    for file in source.frames:
                        summary.frames += 1
                        if file.id in output.done:
                            summary.resumed += 1
                            warnings.count(output.done[file.id].get("warnings", ()))
                        else:
                            _detect_file(pipeline, source, file, output, options, summary, warnings)
                        on_frame()
        except KeyboardInterrupt:
            summary.interrupted = True
        finally:
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(out / RECORD, {**record, "finished": finished, "summary": summary.to_json()}, durable=True)
    return summary


def _detect_file(
    pipeline: Pipeline,
    source: Source,
    file: FrameFile,
    output: OutputFolder,
    options: RunOptions,
    summary: RunSummary,
    warnings: WarningLog,
) -> None:
    clock = StageClock()
    try:
        with clock(Stage.LOAD):
            frame = file.load()
        result = pipeline.detect(frame, clock)
    except FrameError as error:
        told = {"source": source.name, "frame": file.id, "kind": str(error.fault), "reason": str(error)}
        summary.skipped.append(told)
        warnings.count([error.fault])
        if options.stop_on_error:
            raise
        log.warning("skipped: %s", error)
        return
    warnings.add(result.warnings)
    with clock(Stage.WRITE):
        output.write(result, frame_picture(pipeline, file, result) if options.render else None)
    times = clock.elapsed_ms
    output.write_timing(replace(result, stage_ms=times))
    summary.good += 1
    summary.boxes += len(result.detections)
    summary.stage_ms.append(times)


def frame_picture(
    pipeline: Pipeline,
    file: FrameFile,
    result: FrameResult,
    *,
    least_score: float | None = None,
) -> Image.Image:
    """The BEV picture of a frame, with its labels and camera image where the source has them.

    Args:
        pipeline: its grid is the map.
        file: where labels and camera image are looked for.
        result: points, boxes and stage times.
        least_score: of the boxes that are drawn; None for the network's display score.
    """
    display_score = pipeline.network.info.display_score
    labels, ignored = _label_boxes(file, result.frame.calibration)
    return render_bev(
        result.frame,
        result.detections,
        pipeline.spec,
        labels=labels,
        ignored_labels=ignored,
        tiles=result.tiles,
        mask=result.mask,
        display_score=display_score if least_score is None else least_score,
        stage_ms=result.stage_ms,
        camera_image=_camera_image(file),
    )


def _camera_image(file: FrameFile) -> Image.Image | None:
    if file.image_path is None:
        return None
    try:
        with open_camera_image(file.image_path) as image:
            return image.convert("RGB")
    except BAD_IMAGE as error:
        log.warning("drawn without the camera image %s: %s", file.image_path, error)
        return None


def _label_boxes(file: FrameFile, calibration: Calibration | None) -> tuple[Float64 | None, Float64 | None]:
    """(N, 7) boxes of the labelled cars, and of the objects that the evaluation passes over; None without labels."""
    if file.label_path is None or calibration is None:
        return None, None
    try:
        labels = read_labels(file.label_path)
    except LabelError as error:
        log.warning("drawn without labels: %s", error)
        return None, None
    boxes = boxes_from_labels(labels, calibration)
    types = np.array(labels.types)
    return boxes[types == CAR], boxes[types == NEIGHBOUR]


def _refuse_sources_as_output(sources: Sequence[Source], out: Path) -> None:
    """A data set's own labels lie where results would be written."""
    for source in sources:
        if source.layout != "files" and source.path.resolve() in (out.resolve(), *out.resolve().parents):
            raise SourceError(
                f"{out}: lies in the source {source.path}, expected a folder outside of it; choose another"
            )


def _make_room(out: Path, folders: Sequence[Path], record: dict[str, Any], resume: bool) -> None:
    """Readies the folders for a run: to go on from what an earlier one left, or empty.

    Emptying takes a while, and a run may be killed meanwhile. So the record says first that it is going on: one that is
    repeated with ``resume`` empties again, and nothing of another configuration is taken for its own.
    """
    for folder in folders:
        check_ours(folder)
    earlier = _read_record(out / RECORD)
    if resume and not earlier.get("emptying", False):
        _check_resumable(out / RECORD, earlier, record)
    else:
        write_json(out / RECORD, {**record, "emptying": True})
        for folder in folders:
            clear_output(folder)
    write_json(out / RECORD, record)


def _read_record(path: Path) -> dict[str, Any]:
    """The record of an earlier run; empty where there is none."""
    try:
        earlier = json.loads(read_text(path, MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return earlier if isinstance(earlier, dict) else {}


def _check_resumable(path: Path, earlier: dict[str, Any], record: dict[str, Any]) -> None:
    """Refuses to go on with a run of other settings."""
    for key in MUST_AGREE if earlier else ():
        if earlier.get(key) != record[key]:
            raise SourceError(
                f"{path}: the run there has {key} {earlier.get(key)}, expected {record[key]} to resume; "
                "repeat its command, or leave out --resume"
            )
    changed = [key for key in SHOULD_AGREE if earlier and earlier.get(key) != record[key]]
    if changed:
        log.warning("%s: the run there has another %s; its frames may differ in the last digits", path, changed)


def _record(pipeline: Pipeline, sources: Sequence[Source], options: RunOptions) -> dict[str, Any]:
    """The head of `run.json`: everything needed to know where the output comes from."""
    return {
        "sources": [{"name": source.name, "path": str(source.path), "layout": source.layout} for source in sources],
        "config": asdict(pipeline.config),
        "device": pipeline.device,
        "model": {"path": str(pipeline.network.path.absolute()), "sha256": pipeline.network.sha256},
        "machine": machine(),
        "versions": versions(),
        "revision": revision(),
        "render": options.render,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
