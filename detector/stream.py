"""`stream_frames`: frame after frame, the next one being prepared while the network runs on this one.

Two threads. The worker loads, voxelizes and makes the tiles of the next frame; the caller's thread runs the network,
decode and nms. Only the caller's thread launches kernels that run on several threads, because not every threading
layer of Numba bears two launches at once (its `workqueue` ends the process). Kernels release the GIL.

On a GPU both threads only queue, on streams of their own, and the caller's thread starts the next frame, if it is
there, before it waits for this one: points of one frame go up while the network runs on another.

The worker prepares a frame in buffers that go round: free, being prepared, ready, in the network, free::

    every    two: the worker waits until one is free, so the source is slowed down and nothing is lost
    latest   one, lent only while no network runs: a frame that comes meanwhile may well be overtaken, so it waits as
             it is, gives way to a newer one, and is prepared by the caller's thread in the end
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from detector.arrivals import Arrival, SourceClock
from detector.errors import FrameError
from detector.stages import Stage, StageClock
from detector.types import Frame, FrameResult

if TYPE_CHECKING:
    from detector.buffers import FrameBuffers, Prepared
    from detector.pipeline import Pipeline

log = logging.getLogger("roadblocks")

_NOTHING = Frame(np.zeros((0, 4), np.float32))
BUFFERS = {"every": 2, "latest": 1}
JOIN_S = 5.0  # how long the end of a stream waits for a source that is just giving a frame
OnBadFrame = Callable[[FrameError, int], None]  # the error, and how many frames were dropped before


@dataclass(frozen=True)
class _Waiting:
    """A frame that waits for the network.

    Attributes:
        frame: the frame.
        clock: times of its stages so far.
        available_s: since when it was available, time of the source's clock [s].
        dropped_before: late frames between the last one and this.
        prepared: its (rows, cols, channels) float32 grid and its active tiles; None: the caller's thread makes them.
        buffers: what these lie in, to be given back when the network has read them.
    """

    frame: Frame
    clock: StageClock
    available_s: float
    dropped_before: int
    prepared: Prepared | None = None
    buffers: FrameBuffers | None = None


class _Handover:
    """Passes frames to the caller's thread and buffers back, in order.

    Args:
        buffers: all that there are.
        latest: a new frame takes the place of one that still waits.

    Attributes:
        stopped: nobody takes frames any more.
    """

    def __init__(self, buffers: Iterable[FrameBuffers], latest: bool) -> None:
        self._changed = threading.Condition()
        self._free = list(buffers)
        self._ready: deque[_Waiting] = deque()
        self._latest = latest
        self._running = self._ended = False
        self._error: BaseException | None = None
        self.stopped = False

    def borrow(self) -> FrameBuffers | None:
        """Buffers for a frame; "every" waits for them, "latest" does without while the network runs."""
        with self._changed:
            if not self._latest:
                self._changed.wait_for(lambda: self._free or self.stopped)
            return None if self.stopped or (self._latest and self._running) or not self._free else self._free.pop()

    def put(self, waiting: _Waiting) -> None:
        """A frame for the network."""
        with self._changed:
            while self._latest and self._ready:
                late = self._ready.popleft()
                self._take_back(late.buffers)
                waiting = replace(waiting, dropped_before=waiting.dropped_before + late.dropped_before + 1)
            self._ready.append(waiting)
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """No frame follows; ``error`` is raised when those that wait have been taken."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Waiting | None:
        """The next frame, as soon as there is one; None at the end. Its network runs until `network_done`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                self._running = True
                return self._ready.popleft()
        if self._error is not None:
            raise self._error
        return None

    def has_frames(self) -> bool:
        """Whether `take` would give one at once."""
        with self._changed:
            return bool(self._ready)

    def network_done(self, buffers: FrameBuffers | None) -> None:
        """The network has read the frame that was taken, which lay in these."""
        with self._changed:
            self._running = False
            self._take_back(buffers)
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody takes frames any more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def _take_back(self, buffers: FrameBuffers | None) -> None:
        if buffers is not None:
            self._free.append(buffers)


def stream_frames(
    pipeline: Pipeline,
    arrivals: Iterator[Arrival],
    clock: SourceClock,
    policy: str = "every",
    on_bad_frame: OnBadFrame | None = None,
) -> Generator[FrameResult, None, None]:
    """Results of arriving frames, in order. The worker thread ends with the generator.

    Args:
        pipeline: prepares and detects.
        arrivals: read by the worker thread.
        clock: of the arrivals; stopped at the end.
        policy: key of `BUFFERS`.
        on_bad_frame: called in the worker thread for a frame that cannot be loaded, which is then skipped; None ends
            the stream.

    Raises:
        Exception: what the arrivals raise, after the results of the frames before.
    """
    buffers = [pipeline.new_buffers() for _ in range(BUFFERS[policy])]
    for each in buffers:  # takes its memory here, before the source's clock runs
        pipeline.prepare(_NOTHING, buffers=each)
    handover = _Handover(buffers, policy == "latest")
    arguments = (pipeline, arrivals, handover, on_bad_frame)
    worker = threading.Thread(target=_prepare_frames, args=arguments, name="roadblocks-prepare", daemon=True)
    try:
        worker.start()
        started: deque[tuple[_Waiting, Callable[[], FrameResult]]] = deque()
        while True:
            if started and (len(started) > pipeline.frames_ahead or not handover.has_frames()):
                waiting, finish = started.popleft()
                result = finish()
                latency_ms = 1e3 * (clock.now_s() - waiting.available_s)
                yield replace(result, dropped_before=waiting.dropped_before, latency_ms=latency_ms)
            elif (following := handover.take()) is not None:
                done = partial(handover.network_done, following.buffers)
                started.append((following, pipeline.start(following.frame, following.clock, following.prepared, done)))
            else:
                break
    finally:
        clock.stop()
        handover.stop()
        _join(worker)


def _prepare_frames(
    pipeline: Pipeline, arrivals: Iterator[Arrival], handover: _Handover, on_bad_frame: OnBadFrame | None
) -> None:
    """What the worker thread runs."""
    error: BaseException | None = None
    try:
        for frame, clock, arrival in _loaded(arrivals, on_bad_frame):
            buffers = handover.borrow()
            if handover.stopped:
                break
            prepared = None if buffers is None else pipeline.prepare(frame, clock, buffers)
            handover.put(_Waiting(frame, clock, arrival.available_s, arrival.dropped_before, prepared, buffers))
    except BaseException as caught:  # whatever the source raises belongs to the caller
        error = caught
    handover.end(error)


def _loaded(
    arrivals: Iterator[Arrival], on_bad_frame: OnBadFrame | None
) -> Iterator[tuple[Frame, StageClock, Arrival]]:
    """The good frames."""
    for arrival in arrivals:
        clock = StageClock()
        try:
            with clock(Stage.LOAD):
                frame = arrival.load()
        except FrameError as error:
            if on_bad_frame is None:
                raise
            on_bad_frame(error, arrival.dropped_before)
            continue
        yield frame, clock, arrival


def _join(worker: threading.Thread) -> None:
    if worker.ident is None:  # interrupted before it started
        return
    worker.join(JOIN_S)
    if worker.is_alive():
        log.warning("the source of a stream has been giving a frame for %g s; its thread ends with that frame", JOIN_S)
