"""Jobs in a process of their own, so that one that breaks the GPU's context, or hangs, takes no other one with it."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from tools.gpu_check.jobs import Job, Part, gpu_problem

STOP_S = 10.0  # that a killed process has to end

START_S = 60.0  # that a process may take before its first job
MARK = "gpu_check: "  # before every answer, in case that something else is printed


def do_jobs(jobs: Sequence[Job], first: int, out: IO[str]) -> None:
    """The worker: does jobs from ``first`` on and tells of each; ends where the GPU cannot be used any more."""
    for job in jobs[first:]:
        start = time.monotonic()
        try:
            answer: dict[str, Any] = {"part": job.run()}
        except Exception as error:  # a driver's and a compiler's errors share no base class
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answer["seconds"] = round(time.monotonic() - start, 2)
        answer["last"] = "error" in answer and bool(gpu_problem())
        print(MARK + json.dumps(answer), file=out, flush=True)
        if answer["last"]:
            return


class Worker:
    """A process that does jobs.

    Args:
        command: starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._lines.put(line.removeprefix(MARK))
        self._lines.put(None)

    def answer(self, limit_s: float) -> dict[str, Any]:
        """What it tells of its next job; ``last`` says that it does no other one."""
        try:
            line = self._lines.get(timeout=max(limit_s, 0.0))
        except queue.Empty:
            return {"error": f"took longer than {limit_s:.0f} s", "seconds": limit_s, "last": True}
        if line is None:
            return {"error": f"the process ended with status {self.stop()}", "seconds": 0.0, "last": True}
        found: dict[str, Any] = json.loads(line)
        return found

    def stop(self) -> int:
        """Ends it, whatever it does; returns its exit status."""
        self._process.kill()
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:  # stuck in the driver, it is left behind
            status = -signal.SIGKILL
        self._reader.join(STOP_S)
        return status


def work_through(jobs: Sequence[Job], command: Sequence[str], until_s: float) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every job with the answer to it: its ``part`` of the record, or an ``error``, and ``seconds``.

    Args:
        jobs: in their order.
        command: starts a worker; the number of the job to begin with is appended.
        until_s: time of the monotonic clock from which on no job is waited for.
    """
    worker: Worker | None = None
    try:
        for number, job in enumerate(jobs):
            if time.monotonic() >= until_s:
                yield job, {"error": "no time was left", "seconds": 0.0, "last": False}
                continue
            start_s = 0.0
            if worker is None:
                worker, start_s = Worker([*command, str(number)]), START_S
            limit_s = min(job.limit_s + start_s, until_s - time.monotonic())
            answer = worker.answer(limit_s)
            if answer["last"]:
                worker.stop()
                worker = None
            yield job, answer
    finally:
        if worker is not None:
            worker.stop()


def joined(record: dict[str, Any], part: Part) -> None:
    """Puts a part into the record."""
    for key, value in part.items():
        if isinstance(value, list):
            record.setdefault(key, []).extend(value)
        else:
            record[key] = value
