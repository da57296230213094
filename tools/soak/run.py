"""`soak`: a pipeline runs for long, and `broken_limits` says whether it stayed as it is.

A few simulated sweeps are made before; every frame is one of them, rotated, thinned out or doubled to a size of its own
between nothing and 200,000 points, so that no two frames are alike. The frames run in rounds, most of a round by
`Pipeline.detect`, the rest through `Pipeline.stream`, and after every few rounds the pipeline is made anew. At the end
of each round, memory, open files and threads are read from /proc.

Every tenth frame is a *probe*: one of the sweeps as it is. Its boxes must be the same every time, and its latency is
divided by the time of a fixed kernel of the kernel table that runs right before it, so that a machine that slows down
slows both. Drift is how the median of these ratios changes from the first quarter of the run to the last: per probe,
then the median over probes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from detector.pipeline import Pipeline
from tools.soak.frames import Float32, varied
from tools.soak.watch import Census, Probes, course, reference

PROBE_EVERY = 10
ROUNDS = 100  # of a long run
LEAST_ROUND = 20  # frames
STREAMED_SHARE = 0.2  # of a round
ROUNDS_PER_PIPELINE = 2
WARM_SHARE = 0.1  # of the rounds, and at least one pipeline more than the first
MOST_GROWTH, MOST_DRIFT = 0.02, 0.05
DRIFT_FRAMES = 2000  # fewer give every probe too few runs for a median: drift is told, not judged


def soak(
    make_pipeline: Callable[[], Pipeline],
    sweeps: Sequence[Float32],
    frames: int,
    seed: int = 0,
    on_frames: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs the frames.

    Args:
        make_pipeline: gives a new one.
        sweeps: the probes, and what the other frames are made of; (N, 4) float32 each.
        frames: how many to run; rounded up to whole rounds.
        seed: of the frames.
        on_frames: called with the number of frames that were run, for progress.

    Returns:
        The record; `broken_limits` judges it.
    """
    round_frames = max(LEAST_ROUND, -(-frames // ROUNDS))
    rounds = -(-frames // round_frames)
    probes, census, reference_ms, latency_ms = Probes(), [], reference(), np.zeros(rounds)
    pipeline = make_pipeline()
    for turn in range(rounds):
        if turn and turn % ROUNDS_PER_PIPELINE == 0:
            del pipeline  # two at a time would be the peak of memory
            pipeline = make_pipeline()
        numbers = range(turn * round_frames, (turn + 1) * round_frames)
        detected = round(round_frames * (1 - STREAMED_SHARE))
        start_s = time.perf_counter()
        _detect(pipeline, sweeps, numbers[:detected], seed, probes, reference_ms)
        _stream(pipeline, sweeps, numbers[detected:], seed, probes)
        latency_ms[turn] = 1e3 * (time.perf_counter() - start_s) / round_frames
        census.append(Census.take())
        on_frames(round_frames)
    warm = max(ROUNDS_PER_PIPELINE + 1, round(rounds * WARM_SHARE))
    return {
        "frames": rounds * round_frames,
        "rounds": rounds,
        "warm_rounds": warm,
        "pipelines": -(-rounds // ROUNDS_PER_PIPELINE),
        "sweeps": len(sweeps),
        "seed": seed,
        "memory": course([each.memory / 1e6 for each in census[warm:]]),
        "files": course([each.files for each in census[warm:]]),
        "threads": course([each.threads for each in census[warm:]]),
        "drift": probes.drift(*_quarters(warm, rounds, round_frames)),
        "probes": sum(map(len, probes.runs.values())),
        "changed": probes.changed,
        "round_ms": [round(float(ms), 3) for ms in latency_ms],
    }


def _quarters(warm: int, rounds: int, round_frames: int) -> tuple[int, int]:
    """Frame numbers where the first quarter after the warm-up ends and the last begins."""
    quarter = max(1, (rounds - warm) // 4)
    return (warm + quarter) * round_frames, (rounds - quarter) * round_frames


def _detect(
    pipeline: Pipeline,
    sweeps: Sequence[Float32],
    numbers: Sequence[int],
    seed: int,
    probes: Probes,
    reference_ms: Callable[[], float],
) -> None:
    """Frames one by one, the probes timed."""
    for number in numbers:
        if number % PROBE_EVERY:
            pipeline.detect(varied(sweeps, seed, number))
            continue
        probe = number // PROBE_EVERY % len(sweeps)
        before_ms = reference_ms()
        start_s = time.perf_counter()
        result = pipeline.detect(sweeps[probe])
        ratio = 1e3 * (time.perf_counter() - start_s) / before_ms
        probes.runs.setdefault(probe, []).append((number, ratio))
        probes.check(probe, number, result)


def _stream(pipeline: Pipeline, sweeps: Sequence[Float32], numbers: Sequence[int], seed: int, probes: Probes) -> None:
    """Frames through a stream; the probes' boxes are checked, not timed."""

    def frames() -> Iterator[Float32]:
        for number in numbers:
            yield varied(sweeps, seed, number) if number % PROBE_EVERY else sweeps[number // PROBE_EVERY % len(sweeps)]

    for number, result in zip(numbers, pipeline.stream(frames()), strict=True):
        if number % PROBE_EVERY == 0:
            probes.check(number // PROBE_EVERY % len(sweeps), number, result)


def broken_limits(record: dict[str, Any]) -> list[str]:
    """What a record of `soak` shows that must not be, in words."""
    broken = []
    memory = record["memory"]
    growth = memory["last"] / memory["first"] - 1 if memory["first"] else 0.0
    if growth > MOST_GROWTH:
        broken.append(f"memory grew by {growth:.1%}, from {memory['first']:.0f} to {memory['last']:.0f} MB")
    broken += [
        f"{name} grew from {record[name]['first']:g} to {record[name]['last']:g}"
        for name in ("files", "threads")
        if record[name]["last"] > record[name]["first"]
    ]
    if record["changed"]:
        broken.append(
            f"{len(record['changed'])} probes gave other boxes than before, the first in frame {record['changed'][0]}"
        )
    if record["drift"] is not None and record["frames"] >= DRIFT_FRAMES and record["drift"] > MOST_DRIFT:
        broken.append(f"latency over the reference kernel grew by {record['drift']:.1%}")
    return broken
