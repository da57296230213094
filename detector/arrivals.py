"""When frames become available: sources as arrivals in time, by their stamps, at a rate, or as they come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.follow import LOOK_S, GrowingFolder
from detector.sources import RAW_PERIOD_NS, FrameFile, open_sources
from detector.types import Frame

POLICIES = ("every", "latest")
LONGEST_GAP_S = 10.0  # stamps further apart belong to two recordings
Gap = Callable[[FrameFile, FrameFile], float]


class SourceClock:
    """The time of a source [s]. It can be stopped, so that no wait outlives its stream."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def now_s(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def wait_until(self, moment_s: float) -> bool:
        """Waits for a moment, not at all if it is over; False if the clock was stopped."""
        return not self._stopped.wait(max(0.0, moment_s - self.now_s()))

    def stop(self) -> None:
        """Ends this and all later waits."""
        self._stopped.set()


@dataclass(frozen=True)
class Arrival:
    """A frame that has become available.

    Attributes:
        load: gives it; raises `FrameError` if it is bad.
        available_s: since when, time of the source's clock [s].
        dropped_before: frames that were passed over since the last arrival, because this one is newer.
    """

    load: Callable[[], Frame]
    available_s: float
    dropped_before: int = 0


def open_arrivals(
    source: str | Path | Iterable[Any],
    clock: SourceClock,
    *,
    policy: str = "every",
    rate_hz: float | None = None,
    loop: int = 1,
    follow: bool = False,
    frames: slice | None = None,
) -> Iterator[Arrival]:
    """The arrivals of a source. Arguments as `Pipeline.stream`; the clock starts with the first ``next``.

    Raises:
        ConfigError: if the arguments do not fit one another.
        SourceError: if a path is no source.
    """
    _check(policy, rate_hz, loop)
    latest = policy == "latest"
    period_s = None if rate_hz is None or math.isinf(rate_hz) else 1 / rate_hz
    if follow:
        if not isinstance(source, str | Path) or (rate_hz, loop, frames) != (None, 1, None):
            raise ConfigError(
                "follow: expected a folder, and neither rate_hz, loop nor frames: files come when they do"
            )
        return _followed(GrowingFolder(Path(source).expanduser()), latest, clock)
    if not isinstance(source, str | Path):
        if frames is not None:
            raise ConfigError("frames: chooses from the files of a path; slice an iterable with itertools.islice")
        return _given(_repeated(source, loop), period_s, clock)
    files = [file for opened in open_sources([source], frames) for file in opened.frames]
    if period_s is not None:
        return _paced(files, lambda *_: period_s, loop, latest, clock)
    if rate_hz is None and any(file.stamp_ns is not None for file in files):
        return _paced(files, _gap_s, loop, latest, clock)
    if latest:
        found = "have no times" if rate_hz is None else "are all there at once"
        raise ConfigError(f"{source}: policy latest, but its frames {found}; expected a rate, for example 10 Hz")
    return _given(_repeated(files, loop), None, clock)


def _check(policy: str, rate_hz: float | None, loop: int) -> None:
    if policy not in POLICIES:
        raise ConfigError(f"policy is '{policy}', expected one of: {', '.join(POLICIES)}")
    if rate_hz is not None and not rate_hz > 0:
        raise ConfigError(f"rate_hz is {rate_hz}, expected more than 0 (inf: as fast as it goes)")
    if loop < 1:
        raise ConfigError(f"loop is {loop}, expected at least 1")


def _repeated(items: Iterable[Any], loop: int) -> Iterable[Any]:
    if loop == 1:
        return items
    if not isinstance(items, Sequence):
        raise ConfigError(f"loop is {loop} for a {type(items).__name__}, which ends once; expected a path or a list")
    return chain.from_iterable(repeat(items, loop))


def _gap_s(file: FrameFile, following: FrameFile) -> float:
    """Seconds between two frames by their stamps; a KITTI sweep where those are missing or jump, as at a loop's end."""
    if file.stamp_ns is not None and following.stamp_ns is not None:
        gap_s = (following.stamp_ns - file.stamp_ns) / 1e9
        if 0 < gap_s <= LONGEST_GAP_S:
            return gap_s
    return RAW_PERIOD_NS / 1e9


def _paced(files: Sequence[FrameFile], gap_s: Gap, loop: int, latest: bool, clock: SourceClock) -> Iterator[Arrival]:
    """Recorded frames, each when its time has come; with ``latest`` those that came too late are never loaded."""
    due_s, dropped, last = clock.now_s(), 0, len(files) * loop - 1
    for number in range(last + 1):
        file, following = files[number % len(files)], files[(number + 1) % len(files)]
        next_due_s = due_s + gap_s(file, following)
        if not clock.wait_until(due_s):
            return
        if latest and number < last and next_due_s <= clock.now_s():
            dropped += 1
        else:
            yield Arrival(file.load, due_s, dropped)
            dropped = 0
        due_s = next_due_s


def _given(items: Iterable[Any], period_s: float | None, clock: SourceClock) -> Iterator[Arrival]:
    """Frames of an iterable, as it gives them, or at a rate. It is never asked for a frame ahead of its turn."""
    start_s = clock.now_s()
    for number, load in enumerate(_loaders(items)):
        available_s = clock.now_s() if period_s is None else start_s + number * period_s
        if not clock.wait_until(available_s):
            return
        yield Arrival(load, available_s)


def _loaders(items: Iterable[Any]) -> Iterator[Callable[[], Frame]]:
    for number, item in enumerate(items):
        if isinstance(item, FrameFile):
            yield item.load
        elif isinstance(item, Frame):
            yield partial(_itself, item)
        elif isinstance(item, str | Path):
            yield from (file.load for opened in open_sources([item]) for file in opened.frames)
        else:
            yield partial(Frame, item, id=str(number))


def _itself(frame: Frame) -> Frame:
    """A frame that is loaded already."""
    return frame


def _followed(folder: GrowingFolder, latest: bool, clock: SourceClock) -> Iterator[Arrival]:
    """Frames of a growing folder, until the clock is stopped."""
    while True:
        now_s = clock.now_s()
        files = folder.look(now_s)
        if latest and files:
            yield Arrival(files[-1].load, now_s, len(files) - 1)
        else:
            yield from (Arrival(file.load, now_s) for file in files)
        if not clock.wait_until(now_s + LOOK_S):
            return
