"""Made-up labelled frames for the training tests."""

import numpy as np

from detector.calibration import Calibration
from detector.labels import KittiLabels
from tools.training.dataset import LabelledFrame

CAR = np.array([12.3, 4.1, -0.9, 4.0, 1.6, 1.5, 0.6], np.float32)


def car_points(rng, box, count=60):
    """Points on the sides of a box."""
    local = rng.uniform(-0.5, 0.5, (count, 3)) * box[3:6]
    local[: count // 2, 0] = -box[3] / 2
    local[count // 2 :, 1] = box[4] / 2
    cos, sin = np.cos(box[6]), np.sin(box[6])
    turned = np.column_stack(
        [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]]
    )
    return np.column_stack([turned + box[:3], np.full(count, 0.5)]).astype(np.float32)


def frame_with_a_car(rng, box=(6.0, 1.0, -0.9, 4.0, 1.6, 1.5, 0.4)):
    box = np.array(box, np.float32)
    ground = np.column_stack([rng.uniform(1, 12, 3000), rng.uniform(-6, 6, 3000), np.full((3000, 2), -1.65)])
    points = np.concatenate([ground.astype(np.float32), car_points(rng, box)])
    axes = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    calibration = Calibration(axes, np.array([[700, 0, 620, 0], [0, 700, 180, 0], [0, 0, 1, 0.0]]))
    return LabelledFrame("0", points, box[None], np.array([True]), KittiLabels.empty(), calibration)
