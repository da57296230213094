"""What is checked and measured, as a list of jobs: each makes a part of the record, and none needs another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detector.config import Config
from detector.machine import origin
from kernels.gpu import driver_version, gpu_name, gpu_problem
from kernels.launch import SIMULATED
from kernels.table import OPS
from models.mask_network import mask_network_of
from models.masks import PREFERRED
from models.network import load_network
from models.plan import make_plan
from tools.benchmark.sbnet_rows import Row, read_rows
from tools.gpu_check import bench, checks
from tools.gpu_check.frames import FILE, load_frames, load_mask
from tools.gpu_check.half import half_checks

PATIENCE = 10 if SIMULATED else 1
OP_S, PIPELINE_S, BENCH_S, ROW_S = (PATIENCE * s for s in (40.0, 80.0, 60.0, 40.0))  # after so long a job is given up
BATCHES = (1, 2, 4, 8)

Part = Mapping[str, Any]  # of the record: lists are joined, all else is put in


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        name: what ``--only`` is matched with.
        limit_s: how long it may take, compilation included.
        run: does it, and gives its part of the record.
        failed: the part of the record that tells why it did not work.
    """

    name: str
    limit_s: float
    run: Callable[[], Part]
    failed: Callable[[str], Part] = lambda note: {}


@dataclass(frozen=True)
class Subject:
    """What the jobs are about.

    Attributes:
        model: name or path of the network.
        frames: file of `tools.gpu_check.frames`.
        loops: how often the frames are repeated where they are timed.
    """

    model: str = "kitti"
    frames: Path = FILE
    loops: int = 70  # of three frames: their 99th percentile


def all_jobs(subject: Subject, only: str = "") -> list[Job]:
    """The jobs whose name holds the regular expression ``only``, and before them the one that looks at the machine.

    What would be missed most comes first, should there be no time for all.
    """
    small, frame = (list(_op_checks(scale)) for scale in ("small", "frame"))
    jobs = (*small, *_pipeline_checks(subject), *_benchmarks(subject), *frame, *_rows())
    return [Job("machine", BENCH_S, look), *(job for job in jobs if re.search(only, job.name))]


def look() -> Part:
    """Where the numbers come from, and why the GPU cannot be used; an empty ``problem`` says that it can."""
    problem = gpu_problem()
    device = "" if problem else gpu_name()
    return {"problem": problem, "device": device, "driver": "CUDA {}.{}".format(*driver_version()), **origin()}


def _op_checks(scale: str) -> Iterator[Job]:
    for op in OPS:
        yield _check_job(f"check {op.name} ({scale})", OP_S, partial(checks.check_op, op, scale))
    for op, ends in half_checks():
        yield _check_job(f"check {op.name} {ends.name} ({scale})", OP_S, partial(checks.check_op, op, scale, ends))


def _pipeline_checks(subject: Subject) -> Iterator[Job]:
    config = Config(model=subject.model)
    sources = ("occupancy", "all", *([PREFERRED] if mask_network_of(load_network(subject.model)) else []))
    for source in sources:
        for precision, graph in (("float32", True), ("float16", True), ("float16", False)):
            changed = replace(config, precision=precision, cuda_graph=graph, mask=replace(config.mask, source=source))
            name = f"check pipeline, {precision}, mask {source}{'' if graph else ', without a graph'}"
            run = lambda changed=changed: checks.check_pipeline(changed, load_frames(subject.frames))  # noqa: E731
            yield _check_job(name, PIPELINE_S, run)


def _check_job(name: str, limit_s: float, run: Callable[[], checks.Outcome]) -> Job:
    def part(outcome: checks.Outcome) -> Part:
        return {"checks": [{"name": name.removeprefix("check "), **asdict(outcome)}]}

    return Job(name, limit_s, lambda: part(run()), lambda note: part(checks.Outcome(False, None, note)))


def _benchmarks(subject: Subject) -> Iterator[Job]:
    config = Config(model=subject.model, device="cuda")

    def latency(graph: bool, key: str) -> Part:
        found = bench.measure_detector(replace(config, cuda_graph=graph), load_frames(subject.frames), subject.loops)
        return found if graph else {key: found}

    def batches() -> Part:
        loops = max(1, subject.loops // 10)
        return {"fps_by_batch": bench.measure_batches(config, load_frames(subject.frames), loops, BATCHES)}

    def dense_network() -> Part:
        from tools.gpu_check.torch_dense import Dense

        return {
            "dense_network_ms": bench.measure_dense_network(make_plan(load_network(subject.model)), Dense(), BATCHES)
        }

    yield Job("bench latency", BENCH_S, partial(latency, True, ""))
    yield Job("bench latency without a graph", BENCH_S, partial(latency, False, "without_graph"))
    yield Job("bench batches", BENCH_S, batches)
    yield Job("bench dense network", BENCH_S, dense_network)


def _rows() -> Iterator[Job]:
    """SBNet's rows."""
    nothing = {"ours": None, "dense_ms": None, "sparse_ms": None}
    for row in read_rows():
        failed = lambda note, row=row: {"rows": [{**asdict(row), **nothing, "note": note}]}  # noqa: E731
        yield Job(f"row {row.name}", ROW_S, partial(_measure, row), failed)


def _measure(row: Row) -> Part:
    from tools.gpu_check.torch_dense import Dense

    mask = row.masks([])[0] if row.mask == "synthetic" else load_mask(row.name, row.shape)
    return {"rows": [bench.measure_row(row, mask, Dense())]}
