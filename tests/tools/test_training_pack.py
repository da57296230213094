"""Packed frames: what comes back is what went in, up to the stated rounding; broken files are one line."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.errors import LabelError
from detector.labels import KittiLabels, format_labels
from tests.training_frames import frame_with_a_car
from tools.training.dataset import load_frames
from tools.training.pack import read_pack, write_pack

LABELS = KittiLabels.from_table(
    ("Car", "Van", "DontCare"),
    np.random.default_rng(0).uniform(-1, 9, (3, 15)).round(2) * ([1] * 14 + [np.nan]),
)


def frame_of(points, seed=0):
    return replace(frame_with_a_car(np.random.default_rng(seed)), id=f"{seed:06d}", points=points, labels=LABELS)


def check_same(found, expected):
    """Up to what `tools.training.pack` says is lost."""
    assert found.id == expected.id and format_labels(found.labels) == format_labels(expected.labels)
    assert found.points.dtype == np.float32 and found.points.shape == expected.points.shape
    moved = np.abs(found.points.astype(np.float64) - expected.points)
    assert (moved <= np.array([1 / 512, 1 / 512, 1 / 512, 1 / 510]) + 1e-5).all()
    for name in ("camera_from_lidar", "image_from_camera", "image_size"):
        assert np.array_equal(getattr(found.calibration, name), getattr(expected.calibration, name)), name
    assert found.calibration.image_size == expected.calibration.image_size


coordinates = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 40), st.just(3)), elements=st.floats(-120, 120, width=32)
)


@given(st.lists(coordinates, min_size=1, max_size=3), st.integers(0, 9))
def test_frames_come_back(tmp_path_factory, clouds, seed):
    path = tmp_path_factory.mktemp("pack") / "frames.npz"
    rng = np.random.default_rng(seed)
    frames = [
        frame_of(np.column_stack([xyz, rng.random(len(xyz))]).astype(np.float32), number)
        for number, xyz in enumerate(clouds)
    ]
    write_pack(path, frames)
    content = path.read_bytes()
    found = read_pack(path)
    for one, expected in zip(found, frames, strict=True):
        check_same(one, expected)
    write_pack(path, found)
    assert path.read_bytes() == content, "rounding once is rounding for good, and the bytes repeat"


def test_points_out_of_reach_are_left_out(tmp_path):
    points = np.array([[1, 2, -1, 0.5], [128, 0, 0, 0], [0, -129, 0, 0], [-128, 0, 0, 1]], np.float32)
    write_pack(tmp_path / "frames.npz", [frame_of(points)])
    found = read_pack(tmp_path / "frames.npz")[0].points
    np.testing.assert_allclose(found, [[1, 2, -1, 0.5], [-128, 0, 0, 1]], atol=0.002)


def packed(**changes):
    """The bytes of a small packed file, some of its arrays replaced."""
    record = {"id": "0", "num_points": 2, "labels": "", "image_size": [10, 10]}
    record |= {"camera_from_lidar": np.eye(4).tolist(), "image_from_camera": np.eye(4)[:3].tolist()}
    record |= changes.pop("record", {})
    content = {"coordinates": np.zeros((2, 3), np.int16), "intensities": np.zeros(2, np.uint8)}
    content |= {"frames": np.frombuffer(json.dumps([record]).encode(), np.uint8)} | changes
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: value for name, value in content.items() if value is not None})
    return stream.getvalue()


HOSTILE = {
    "empty": b"",
    "text": b"no archive",
    "short": packed()[:-30],
    "torn": packed()[:200] + bytes(50) + packed()[250:],
    "pickle": packed(frames=np.array([{}], object)),
    "other arrays": packed(coordinates=None),
    "floats": packed(coordinates=np.zeros((2, 3), np.float32)),
    "columns": packed(coordinates=np.zeros((2, 4), np.int16)),
    "fewer points": packed(record={"num_points": 1}),
    "negative": packed(record={"num_points": -2}),
    "half a point": packed(record={"num_points": 1.5}),
    "no list": packed(frames=np.frombuffer(b"3", np.uint8)),
    "no frames": packed(frames=np.frombuffer(b"[]", np.uint8)),
    "no json": packed(frames=np.frombuffer(b"[{]", np.uint8)),
    "no calibration": packed(record={"camera_from_lidar": []}),
    "no size": packed(record={"image_size": 3}),
    "bad label": packed(record={"labels": "Car 1 2"}),
    "bomb": packed(frames=np.zeros(30_000_000, np.uint8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_broken_files_are_one_line(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("tools.training.pack.MAX_UNPACKED_BYTES", 10_000_000)
    path = tmp_path / "frames.npz"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(LabelError, match=r"tools\.train pack") as told:
        read_pack(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value) and len(str(told.value)) < 500


def test_the_command_packs_what_run_reads(tmp_path, shared):
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'roadblocks[train]'")
    from tools.train import _frames, main

    split, path = tmp_path / "split.txt", tmp_path / "frames.npz"
    split.write_text("\n".join((shared / "kitti/ImageSets/val.txt").read_text().split()[:3]))
    done = CliRunner().invoke(main, ["pack", str(path), "--data", f"{shared / 'kitti'}@{split}"])
    assert done.exit_code == 0, done.output
    expected = load_frames(shared / "kitti", split)
    for found, frame in zip(_frames((str(path),)), expected, strict=True):
        check_same(found, frame)
        np.testing.assert_array_equal(found.counted, frame.counted)
        np.testing.assert_allclose(found.boxes, frame.boxes, atol=1e-4)
    for words in (["pack", str(tmp_path / "a.zip"), "--data", str(path)], ["run", "--data", f"{path}@x", "--out", "y"]):
        assert CliRunner().invoke(main, words).exit_code == 2
