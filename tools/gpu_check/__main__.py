"""``python -m tools.gpu_check``: one command on a machine with a GPU; under eight minutes, installs nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.gpu_check.stand_ins import install

LIMIT_S = 440.0  # after which no further row is measured
LOOPS = 70  # of the frames: their 99th percentile


def main(arguments: list[str] | None = None) -> int:
    """Checks, then measures; returns 0 if all checks are good, 1 if not, 2 if no GPU can be used."""
    parser = argparse.ArgumentParser("python -m tools.gpu_check", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the record as JSON; - is stdout")
    parser.add_argument("--checks-only", action="store_true", help="measure nothing")
    parser.add_argument("--small", action="store_true", help="ops on small inputs only, without the pipeline")
    parser.add_argument("--ops", default="", help="only ops whose name holds this")
    options = parser.parse_args(arguments)
    started, stand_ins = time.monotonic(), install()
    tell = sys.stderr if options.json == "-" else sys.stdout

    from kernels.gpu import gpu_problem

    problem = gpu_problem()
    if problem:
        print(f"gpu_check: {problem}", file=sys.stderr)
        return 2
    record = head(stand_ins)
    print(f"{record['device']}, driver {record['driver']}, revision {record['revision']}", file=tell)
    record["checks"] = run_checks(options, tell)
    if not options.checks_only:
        record |= run_benchmark(started + LIMIT_S, tell)
    bad = [check["name"] for check in record["checks"] if not check["ok"]]
    print(f"{len(record['checks']) - len(bad)} of {len(record['checks'])} checks are good", *bad, sep="\n  ", file=tell)
    if options.json == "-":
        print(json.dumps(record, indent=1))
    elif options.json:
        from detector.files import write_json

        write_json(Path(options.json), record)
    return int(bool(bad))


def head(stand_ins: list[str]) -> dict[str, Any]:
    """Where the numbers come from."""
    from importlib import metadata

    from detector.machine import origin
    from kernels.gpu import driver_version, gpu_name

    found = origin()
    with suppress(metadata.PackageNotFoundError):
        found["versions"]["torch"] = metadata.version("torch")
    driver = ".".join(map(str, driver_version()))
    return {"device": gpu_name(), "driver": f"CUDA {driver}", "stand_ins": stand_ins, **found}


def run_checks(options: argparse.Namespace, tell: Any) -> list[dict[str, Any]]:
    """All checks, told as they come."""
    from detector.config import Config
    from kernels.table import OPS
    from tools.gpu_check.checks import check_ops, check_pipeline
    from tools.gpu_check.frames import load_frames

    ops = [op for op in OPS if options.ops in op.name]
    parts = [check_ops(ops, "small")]
    if not options.small:
        parts += [check_ops(ops, "frame"), check_pipeline(load_frames(), Config())]
    checks = []
    for part in parts:
        for check in part:
            word = "ok   " if check.ok else "WRONG"
            print(f"{word} {check.name}: {check.max_error:.3g} {check.note}", file=tell, flush=True)
            checks.append(asdict(check))
    return checks


def run_benchmark(until_s: float, tell: Any) -> dict[str, Any]:
    """Latency, the dense network, SBNet's rows; what PyTorch is needed for is left out without it."""
    from detector.config import Config
    from models.network import load_network
    from models.plan import make_plan
    from tools.benchmark.sbnet_rows import read_rows
    from tools.gpu_check import bench
    from tools.gpu_check.frames import load_frames

    config = Config(device="cuda")
    record = bench.measure_detector(config, load_frames(), LOOPS)
    print(f"latency {record['latency_ms']}, {record['fps']:.0f} frames per second", file=tell, flush=True)
    try:
        from tools.gpu_check.torch_dense import Dense
    except ImportError:
        print("PyTorch is not installed: nothing to compare with", file=tell)
        return {**record, "rows": []}
    dense = Dense()
    record["dense_network_ms"] = bench.measure_dense_network(make_plan(load_network(config.model)), dense, (1, 4, 8))
    print(f"dense network through cuDNN, by batch: {record['dense_network_ms']} ms", file=tell, flush=True)
    # The other masks are made from whole turns of a LiDAR, which do not travel with the checkout.
    rows = [(row, row.masks([])[0]) for row in read_rows() if row.mask == "synthetic"]
    record["rows"] = []
    for row in bench.measure_rows(rows, dense, until_s):
        note = row.get("note") or f"{row['ours']:.2f}, SBNet {row['sbnet']}"
        print(f"{row['kind']} {row['stage']} {row['mask']}: {note}", file=tell, flush=True)
        record["rows"].append(row)
    return record


if __name__ == "__main__":
    raise SystemExit(main())
