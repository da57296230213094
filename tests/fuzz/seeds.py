"""Writes the seeds of `tests/fuzz/corpus`, small files of every kind, made here: ``python -m tests.fuzz.seeds``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import helper

from detector.calibration import write_object_calibration, write_raw_calibration
from tests.fuzz.targets import CALIBRATION, CORPUS, FOLDER
from tests.models.small_networks import everything_network, residual_network
from tests.tiny_network import INFO, patch_points, tiny_model, write_model

CAR = "Car 0.25 1 -1.57 10.00 20.00 110.00 70.00 1.5000 1.6000 4.0000 2.0000 1.7000 20.0000 -1.4700"
PCD = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2 3\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n1 2 3\n"
)
CONFIGS = {
    "empty": "",
    "full": "model: kitti\ndevice: cpu\nexecution: sparse\nscore: 0.1\nsensor: {crop_to_camera: false}\n"
    "mask: {source: all, margin_m: 2}\nbudget: {tiles: 100, ms: 50.5}\nnms: {iou: 0.2, max_candidates: 10}\n",
    "types": "score: !!float '1'\nmodel: 'a b'\ndevice: \"\\u00fc\"\nnms: {iou: 0x1, max_boxes: 0b11}\n",
    "aliases": "a: &a [1, 2]\nb: [*a, *a]\n<<: *a\n",
    "tags": "model: !!binary aGk=\nscore: !!timestamp 2001-01-01\nnms: !!set {a, b}\n",
}


def frames() -> dict[str, bytes]:
    scaled = patch_points() * np.array([1, 1, 1, 255], np.float32)
    holes = np.tile(patch_points(), (2, 1))
    holes[3] = np.nan
    points = {"points": patch_points(), "none": patch_points()[:0], "bytes": scaled, "holes": holes}
    found = {name: b"\0" + value.tobytes() for name, value in points.items()}
    found["cut"] = found["points"][:-3]
    return found | {"pcd": b"\1" + PCD.encode(), "ply": b"\2" + PLY.encode()}


def calibrations() -> dict[str, bytes]:
    write_object_calibration(FOLDER / "seed.txt", CALIBRATION)
    write_raw_calibration(FOLDER, CALIBRATION)
    velo, camera = ((FOLDER / f"calib_{name}.txt").read_bytes() for name in ("velo_to_cam", "cam_to_cam"))
    short = b"oP2: 7 0 6 4 0 7 1 2 0 0 1 0\nR_rect 1 0 0 0 1 0 0 0 1\nTr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
    return {
        "object": b"o" + (FOLDER / "seed.txt").read_bytes(),
        "tracking": short,
        "raw": b"r" + velo + b"===" + camera,
    }


def labels() -> dict[str, bytes]:
    text = {"car": CAR, "scored": f"{CAR} 0.5\n", "two": f"{CAR}\r\n\n{CAR.replace('Car', 'Van')}\n", "none": "\n"}
    return {name: value.encode() for name, value in text.items()} | {"marked": f"\ufeff{CAR}".encode()}


def networks() -> dict[str, bytes]:
    """Each with what the planner treats differently; and some that it must refuse."""
    sizes = {"residual": residual_network(0, 16, 16, 4, 4), "everything": everything_network(0, 16, 16)}
    found = {name: network.content for name, network in sizes.items()}
    for name in ("tiny", "cycle", "constant", "doubling"):
        model = tiny_model()
        if name == "cycle":
            model.graph.node[0].input[0] = model.graph.node[1].output[0]
        if name == "constant":
            model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=model.graph.initializer[0]))
            del model.graph.initializer[0]
        if name == "doubling":
            names = ["grid", *(f"d{index}" for index in range(40))]
            joins = [helper.make_node("Concat", [x, x], [y], axis=1) for x, y in pairwise(names)]
            model.graph.node.extend(joins)
        found[name] = write_model(FOLDER / "seed.onnx", model, INFO).read_bytes()
    return found


def main() -> None:
    """Writes all seeds."""
    configs = {name: text.encode() for name, text in CONFIGS.items()}
    groups = {"frame": frames(), "calibration": calibrations(), "label": labels(), "config": configs}
    for target, seeds in (groups | {"network": networks()}).items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (CORPUS / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
