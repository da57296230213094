"""The measured frames as a Chrome trace: for ui.perfetto.dev, chrome://tracing and everything else that reads it.

The format is Google's "Trace Event Format": metadata events ("M") name processes and threads, complete events ("X")
have a begin and a duration, counter events ("C") are drawn as a curve; times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detector.profile.measure import Measurement
from detector.profile.meter import Sample, Span
from detector.profile.record import MODE_NAMES

Event = dict[str, Any]


def make_trace(measured: Measurement) -> dict[str, Any]:
    """A process per mode, a track per thread, a frame around its stages, a curve of the active tiles."""
    start_ns = min(sample.spans[0].start_ns for samples in measured.samples.values() for sample in samples)
    events: list[Event] = []
    for order, (mode, samples) in enumerate(measured.samples.items()):
        pid = measured.facts[mode].pid
        events += _names(pid, order, MODE_NAMES[mode], samples)
        for sample in samples:
            events += _frame_events(sample, measured.frames.names[sample.index], pid, start_ns)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(pid: int, order: int, name: str, samples: Sequence[Sample]) -> Iterator[Event]:
    """What the process and its threads are called, and where they stand."""
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": order}}
    threads = {span.thread_id: span.thread for sample in samples for span in sample.spans}
    for tid, thread in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}


def _frame_events(sample: Sample, frame: str, pid: int, start_ns: int) -> Iterator[Event]:
    args = {"frame": frame, "tiles": sample.tiles}

    def complete(name: str, category: str, first: Span, last: Span) -> Event:
        return {
            "ph": "X",
            "name": name,
            "cat": category,
            "pid": pid,
            "tid": first.thread_id,
            "ts": (first.start_ns - start_ns) / 1e3,
            "dur": (last.end_ns - first.start_ns) / 1e3,
            "args": args,
        }

    first, last = sample.spans[0], sample.spans[-1]
    yield complete(f"frame {frame}", "frame", first, last)
    for span in sample.spans:
        yield complete(span.stage, "stage", span, span)
    yield {
        "ph": "C",
        "name": "active tiles",
        "pid": pid,
        "tid": first.thread_id,
        "ts": (first.start_ns - start_ns) / 1e3,
        "args": {"tiles": sample.tiles},
    }
