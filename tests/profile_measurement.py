"""Frames to profile, and a profile that nobody measured: times and tiles drawn at random."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from detector.machine import origin
from detector.profile.measure import Frames, Measurement, Picture
from detector.profile.meter import MODES, Facts, Sample, Span
from detector.sources import FrameFile
from tests.tiny_network import patch_points, write_model

STAGE_MS = {"load": 1.0, "voxelize": 4.0, "mask": 0.3, "reduce": 0.1, "backbone": 40.0, "decode": 0.6, "nms": 1.7}
BACKBONE_FACTORS = {"sparse": 1.0, "dense": 5.0, "tiles_all": 4.0}
FACTS = Facts("cpu", {"mask": {"margin_m": 0.8}}, {"name": "tiny", "sha256": "0" * 64}, 100, 5, 40, 2.5, 0.3, 12.0)


def frame_spans(stage_ms, start_ns):
    """Stages one after the other, half a microsecond apart."""
    for stage, ms in stage_ms.items():
        end_ns = start_ns + round(ms * 1e6)
        yield Span(stage, start_ns, end_ns, 7, "MainThread")
        start_ns = end_ns + 500


def make_measurement(seed=0, frames=60, loop=1, noise=0.03, factors=None):
    """Times with noise that lasts a few frames and now and then a hiccup; ``factors`` slow stages of sparse down."""
    rng = np.random.default_rng(seed)
    scene = np.random.default_rng(99).uniform(0.7, 1.3, frames)  # the same frames whatever the seed
    samples = {}
    for number, mode in enumerate(MODES):
        scale = {**dict.fromkeys(STAGE_MS, 1.0), **(factors or {} if mode == "sparse" else {})}
        scale["backbone"] *= BACKBONE_FACTORS[mode]
        mood = np.convolve(rng.standard_normal(frames * loop + 4), np.ones(5) / 5**0.5, "valid")
        samples[mode] = []
        for step in range(frames * loop):
            index = step % frames
            drawn = np.exp(noise * (rng.standard_normal(len(STAGE_MS)) + mood[step])) + (rng.random() < 0.02) * 0.5
            content = scene[index] if mode == "sparse" else 1.0
            stage_ms = {
                stage: ms * scale[stage] * draw * (content if stage == "backbone" else 1.0)
                for (stage, ms), draw in zip(STAGE_MS.items(), drawn, strict=True)
            }
            spans = tuple(frame_spans(stage_ms, 10**9 * (1 + number) + step * 10**9))
            tiles = 40 if mode == "tiles_all" else round(12 * scene[index])
            samples[mode].append(Sample(index, stage_ms, tiles, spans))
    names = tuple(f"{index:06d}" for index in range(frames))
    files = tuple(FrameFile(name, f"{name}.bin") for name in names)
    facts = {mode: replace(FACTS, pid=100 + number) for number, mode in enumerate(MODES)}
    facts["dense"] = replace(facts["dense"], computed_fraction=None, gflop=None)
    return Measurement(
        origin(),
        {"threads": None},
        Frames(files, names, f"{frames:064d}", ()),
        loop,
        samples,
        facts,
        {"sparse": 500.0, "dense": 400.0, "tiles_all": 450.0},
        (Picture(3, png((20, 60, 90))), Picture(1, png((90, 60, 20)))),
    )


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(content, "PNG")
    return content.getvalue()


def write_frames(folder, count):
    """A folder of frames, the last without points, and tiny.yaml, the configuration of the tiny network."""
    for number in range(count):
        points = patch_points(row=number % 2, col=number % 3)
        points[: 0 if number == count - 1 else None].tofile(folder / f"{number}.bin")
    (folder / "tiny.yaml").write_text(f"model: {write_model(folder / 'tiny.onnx')}\n")
    return folder
