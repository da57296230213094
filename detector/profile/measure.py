"""`measure`: the frames of a source in every way of running, and pictures of the slowest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.errors import FrameError, SourceError
from detector.machine import origin
from detector.profile.meter import Facts, Sample
from detector.profile.workers import Worker, start_workers, take_turns
from detector.sources import FrameFile, Source

log = logging.getLogger("roadblocks")

TURN_FRAMES = 25  # long enough for caches and clock rates to settle, short enough for the ways to meet the same mood


@dataclass(frozen=True)
class Frames:
    """The frames that are measured.

    Attributes:
        files: on disk.
        names: their ids, with the name of their recording where there are several.
        sha256: of names and points: two profiles with the same value ran on the same frames.
        skipped: name and reason of every bad frame.
    """

    files: tuple[FrameFile, ...]
    names: tuple[str, ...]
    sha256: str
    skipped: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Picture:
    """One of the slowest frames: its place in the list of frames and its BEV picture, PNG."""

    index: int
    png: bytes


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        origin: machine, versions, revision, date and load, before it began.
        settings: keywords of `Pipeline.from_config`.
        frames: the frames.
        loop: how often they were run.
        samples: per mode, one per frame and repetition, in the same order for all modes.
        facts: per mode.
        peak_mb: most memory of each mode's process [MB, 1e6 bytes].
        pictures: of the slowest frames, slowest first.
    """

    origin: Mapping[str, Any]
    settings: Mapping[str, Any]
    frames: Frames
    loop: int
    samples: Mapping[str, Sequence[Sample]]
    facts: Mapping[str, Facts]
    peak_mb: Mapping[str, float]
    pictures: tuple[Picture, ...]


def read_frames(sources: Sequence[Source]) -> Frames:
    """Reads every frame once: bad ones are told and left out, in all modes, and files come from memory afterwards.

    Raises:
        SourceError: if no frame is good.
    """
    digest, skipped = hashlib.sha256(), []
    good: dict[str, FrameFile] = {}
    for source in sources:
        for file in source.frames:
            name = f"{source.name}/{file.id}" if len(sources) > 1 else file.id
            try:
                points = file.load().points
            except FrameError as error:
                log.warning("skipped: %s", error)
                skipped.append({"frame": name, "reason": str(error)})
                continue
            good[name] = file
            digest.update(name.encode())
            digest.update(points.tobytes())
    if not good:
        raise SourceError(f"none of {len(skipped)} frames can be read, expected one at least; the reasons are above")
    return Frames(tuple(good.values()), tuple(good), digest.hexdigest(), tuple(skipped))


def measure(
    frames: Frames,
    settings: Mapping[str, Any],
    loop: int = 1,
    pictures: int = 0,
    on_frames: Callable[[int], None] = lambda _: None,
) -> Measurement:
    """Runs the frames in every mode, in turns, warm.

    Args:
        frames: from `read_frames`.
        settings: keywords of `Pipeline.from_config`.
        loop: how often to run them.
        pictures: of how many of the slowest frames to draw the BEV picture.
        on_frames: called with the number of frames that were run, for progress.

    Raises:
        RoadblocksError: if a mode cannot run, or a frame turned bad meanwhile.
    """
    where = origin()
    indices = range(len(frames.files))
    batches = [indices[start : start + TURN_FRAMES] for start in indices[::TURN_FRAMES]] * loop
    with start_workers(frames.files, settings) as workers:
        turns = take_turns(workers, batches, on_frames)
        samples = {mode: [sample for turn in lists for sample in turn] for mode, lists in turns.items()}
        facts = {mode: worker.facts for mode, worker in workers.items()}
        peak_mb = {mode: worker.ask("peak_mb") for mode, worker in workers.items()}
        drawn = _draw_slowest(workers["sparse"], samples["sparse"], pictures)
    return Measurement(where, settings, frames, loop, samples, facts, peak_mb, drawn)


def _draw_slowest(worker: Worker, samples: Sequence[Sample], count: int) -> tuple[Picture, ...]:
    """Pictures of the frames of largest median total."""
    by_frame: dict[int, list[Sample]] = {}
    for sample in samples:
        by_frame.setdefault(sample.index, []).append(sample)
    total_ms = {index: np.median([sample.total_ms for sample in runs]) for index, runs in by_frame.items()}
    slowest = sorted(total_ms, key=lambda index: -total_ms[index])[:count]
    drawn = []
    for index in slowest:
        stage_ms = {
            stage: float(np.median([run.stage_ms[stage] for run in by_frame[index]]))
            for stage in by_frame[index][0].stage_ms
        }
        drawn.append(Picture(index, worker.ask("picture", index, stage_ms)))
    return tuple(drawn)
