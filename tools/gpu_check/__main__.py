"""``python -m tools.gpu_check``: one command on a machine with a GPU; under eight minutes, installs nothing."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tools.gpu_check.stand_ins import install

TOOLKIT = Path("/usr/local/cuda")
LIMIT_S = 440.0  # after which no job is waited for


def main(arguments: list[str] | None = None) -> int:
    """Checks, then measures; returns 0 if all checks are good, 1 if not, 2 if no GPU can be used."""
    options = parser().parse_args(arguments)
    until_s, stand_ins = time.monotonic() + LIMIT_S, install()
    if TOOLKIT.joinpath("nvvm").is_dir():  # where nvrtc is a package and nvvm is not, Numba looks for it nowhere else
        os.environ.setdefault("CUDA_HOME", str(TOOLKIT))

    from tools.gpu_check.jobs import Subject, all_jobs
    from tools.gpu_check.workers import do_jobs, work_through

    jobs = all_jobs(Subject(options.model, options.frames, options.loops), options.only)
    if options.worker is not None:
        do_jobs(jobs, options.worker, sys.stdout)
        return 0
    tell = sys.stderr if options.json == "-" else sys.stdout
    chosen = ["--model", options.model, "--frames", str(options.frames), "--loops", str(options.loops)]
    command = [sys.executable, "-m", "tools.gpu_check", *chosen, "--only", options.only, "--worker"]
    record: dict[str, Any] = {"stand_ins": stand_ins, "checks": [], "rows": [], "errors": {}, "seconds": {}}
    for job, answer in work_through(jobs, command, until_s):
        add(record, job, answer)
        if job is jobs[0] and record.get("problem", "no answer"):
            print(f"gpu_check: {record.get('problem') or record['errors'][job.name]}", file=sys.stderr)
            return 2
        print(line(job.name, answer, record), file=tell, flush=True)
        keep(options.json, record)  # after every job, should this process be stopped from outside
    bad = [check["name"] for check in record["checks"] if not check["ok"]]
    print(f"{len(record['checks']) - len(bad)} of {len(record['checks'])} checks are good", *bad, sep="\n  ", file=tell)
    if options.json == "-":
        print(json.dumps(record, indent=1))
    return int(bool(bad))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from tools.gpu_check.frames import FILE

    made = argparse.ArgumentParser("python -m tools.gpu_check", description=__doc__)
    made.add_argument("--json", metavar="FILE", help="write the record as JSON; - is stdout")
    made.add_argument(
        "--only", default="", metavar="REGEX", help="only jobs whose name holds this, such as 'check|row'"
    )
    made.add_argument("--model", default="kitti", help="a shipped network, or an ONNX file")
    made.add_argument("--frames", type=Path, default=FILE, help="points, as tools/gpu_check/frames.py keeps them")
    made.add_argument("--loops", type=int, default=70, help="how often the frames are repeated where they are timed")
    made.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return made


def add(record: dict[str, Any], job: Any, answer: dict[str, Any]) -> None:
    """Puts what came of a job into the record."""
    from tools.gpu_check.workers import joined

    record["seconds"][job.name] = answer["seconds"]
    if "error" in answer:
        record["errors"][job.name] = answer["error"]
    joined(record, answer["part"] if "part" in answer else job.failed(answer["error"]))


def line(name: str, answer: dict[str, Any], record: dict[str, Any]) -> str:
    """What is told of a job."""
    if "error" in answer:
        return f"FAILED {name}: {answer['error']}"
    part = answer["part"]
    if "checks" in part:
        (check,) = part["checks"]
        return f"{'ok    ' if check['ok'] else 'WRONG '} {name}: {check['max_error']} {check['note']}"
    if "rows" in part:
        (row,) = part["rows"]
        return f"       {name}: {row['ours']:.2f}, SBNet {row['sbnet']}"
    if "problem" in part:
        return f"       {record['device']}, driver {record['driver']}, revision {record['revision']}"
    return f"       {name}: {json.dumps(part)}"


def keep(file: str | None, record: dict[str, Any]) -> None:
    """Writes the record where it is asked for."""
    from detector.files import write_json

    if file and file != "-":
        write_json(Path(file), record)


if __name__ == "__main__":
    raise SystemExit(main())
