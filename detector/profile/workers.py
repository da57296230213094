"""Processes that take turns: A B C, C B A, …

Each way of running has a process of its own, so that onnxruntime's waiting threads take no core from Numba's, and so
that the peak of its memory is its own. Turns make a change of the machine's mood meet all of them.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

from detector.errors import RoadblocksError
from detector.profile.meter import MODES, Facts, Meter, Sample
from detector.sources import FrameFile
from kernels.jit import is_compiled

PAUSE_S = 0.3  # between turns, until waiting threads have gone to sleep


class Worker:
    """A `Meter` in a process of its own.

    Args:
        mode: key of `MODES`.
        files: the frames.
        settings: keywords of `Pipeline.from_config`.
    """

    def __init__(self, mode: str, files: Sequence[FrameFile], settings: Mapping[str, Any]) -> None:
        self._mode = mode
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, mode, files, dict(settings)), daemon=True)
        self._process.start()
        theirs.close()

    @cached_property
    def facts(self) -> Facts:
        """What it says of itself; waits until it is warm.

        Raises:
            RoadblocksError: if it could not start.
        """
        facts: Facts = self.ask("facts")
        return facts

    def ask(self, request: str, *arguments: Any) -> Any:
        """The answer of a method of `Meter`.

        Raises:
            RoadblocksError: the error that it raised, or if the process died.
        """
        try:
            self._connection.send((request, *arguments))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            code = self._process.exitcode
            raise RoadblocksError(
                f"profile: the process of mode {self._mode} ended with code {code}, expected its measurements; "
                "what it said is above (code -9 is mostly: out of memory)"
            ) from error
        if isinstance(answer, RoadblocksError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(2)
        self._process.kill()


def _serve(connection: Connection, mode: str, files: Sequence[FrameFile], settings: Mapping[str, Any]) -> None:
    """Answers until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    try:
        meter = Meter(mode, files, settings)
        while True:
            request, *arguments = connection.recv()
            connection.send(getattr(meter, request)(*arguments))
    except RoadblocksError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return


@contextmanager
def start_workers(files: Sequence[FrameFile], settings: Mapping[str, Any]) -> Iterator[dict[str, Worker]]:
    """A warm worker per mode, all on the device of the first; they end with the ``with`` body.

    Args:
        files: the frames.
        settings: keywords of `Pipeline.from_config`.

    Raises:
        RoadblocksError: if one cannot start.
    """
    workers: dict[str, Worker] = {}
    first, *others = MODES
    try:
        if not is_compiled():
            # The compiler's memory and time belong to no mode.
            workers[first] = Worker(first, files[:1], settings)
            _ = workers[first].facts
            workers[first].close()
        workers[first] = Worker(first, files, settings)
        settings = {**settings, "device": workers[first].facts.device}
        workers.update({mode: Worker(mode, files, settings) for mode in others})
        for worker in workers.values():
            _ = worker.facts
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def take_turns(
    workers: Mapping[str, Worker], batches: Iterable[Sequence[int]], on_frames: Callable[[int], None] = lambda _: None
) -> dict[str, list[list[Sample]]]:
    """Every worker runs every batch; who begins changes from batch to batch.

    Args:
        workers: by mode.
        batches: indices of frames.
        on_frames: called with the number of frames that were run, for progress.

    Returns:
        Per mode and batch, the samples of its frames.
    """
    samples: dict[str, list[list[Sample]]] = {mode: [] for mode in workers}
    for number, batch in enumerate(batches):
        for mode in list(workers)[:: -1 if number % 2 else 1]:
            time.sleep(PAUSE_S)
            samples[mode].append(workers[mode].ask("turn", batch))
            on_frames(len(batch))
    return samples
