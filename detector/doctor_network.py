"""Checks of the network: the shipped files against their recorded hashes, and one frame from points to boxes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from detector.config import load_config
from detector.doctor import Finding, State

HASHES = "SHA256SUMS"  # beside the networks, as sha256sum writes and checks it
POINTS = 20_000  # of a frame that is full of them, as cropped ones of KITTI


def check_weights(config: str) -> Iterator[Finding]:
    """Every shipped network, and the one that the configuration names."""
    from models.network import load_network, network_folder

    folder = network_folder()
    yield from weights_findings(folder, recorded_hashes(folder / HASHES))
    network = load_network(load_config(config).model)
    info = network.info
    yield Finding("network", "configured", f"{network.path.name}: {info.name}, finds {', '.join(info.classes)}")


def recorded_hashes(file: Path) -> Mapping[str, str]:
    """File name → SHA-256, from lines as sha256sum writes them."""
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {name.lstrip("*"): digest for digest, name in lines}


def weights_findings(folder: Path, recorded: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the networks of a folder are those whose hashes were recorded."""
    again = "the file is damaged: get it again, by git checkout or pip install --force-reinstall 'roadblocks'"
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            yield Finding("network", name, "is missing", State.FAILURE, again)
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest == expected:
            yield Finding("network", name, f"SHA-256 {digest[:12]}…, as recorded")
        else:
            found = f"SHA-256 {digest[:12]}…, expected {expected[:12]}…"
            yield Finding("network", name, found, State.FAILURE, again)
    for path in sorted(folder.glob("*.onnx")):
        if path.name not in recorded:
            advice = f"own networks belong elsewhere; a new shipped one into {HASHES}: sha256sum *.onnx > {HASHES}"
            yield Finding("network", path.name, f"has no recorded hash in {HASHES}", State.WARNING, advice)


def check_detect(config: str) -> Iterator[Finding]:
    """One frame from points to boxes, as `detect` would run it."""
    from detector.pipeline import Pipeline
    from models.tuning import tuning_file, unit_name

    pipeline = Pipeline.from_config(config)
    pipeline.warm_up()
    spec = pipeline.spec
    low = (spec.x_min_m, spec.y_min_m, spec.z_min_m, 0)
    high = (spec.x_max_m, spec.y_max_m, spec.z_max_m, 1)
    points = np.random.default_rng(0).uniform(low, high, (POINTS, 4)).astype(np.float32)
    start_s = time.perf_counter()
    result = pipeline.detect(points)
    frame_ms = 1e3 * (time.perf_counter() - start_s)
    boxes = len(result.detections)
    tiles = f"{result.tiles_run} of {result.tiles_total} tiles"
    yield Finding("detect", "a frame", f"{tiles}, {boxes} boxes, {frame_ms:.0f} ms on {pipeline.device}")
    unit = unit_name(pipeline.device, pipeline.config.precision)
    if pipeline.config.execution == "sparse" and not tuning_file(pipeline.network, unit).is_file():
        yield Finding("detect", "tuning", "not done", advice="roadblocks tune SOURCE may make it faster here")
