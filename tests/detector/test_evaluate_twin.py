"""The KITTI protocol against a slow twin, written from its description with plain lists and shapely."""

import math
from dataclasses import fields

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.evaluate import evaluate
from detector.labels import KittiLabels

METRICS = {"2d": 0.7, "bev": 0.7, "3d": 0.7, "bev_50": 0.5, "3d_50": 0.5}
# Height [px], occlusion, truncation.
LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.30), "hard": (25, 2, 0.50)}


def objects(labels):
    columns = (labels.types, labels.truncated, labels.occluded, labels.boxes_2d, labels.dimensions_m)
    columns += (labels.locations_m, labels.rotation_y_rad, labels.scores)
    names = ("name", "truncated", "occluded", "box", "size", "place", "yaw", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def footprint(thing):
    """The box on the ground: the devkit turns (length, width) by [[cos, sin], [-sin, cos]] into (x, z)."""
    _, width, length = thing["size"]
    cos, sin = math.cos(thing["yaw"]), math.sin(thing["yaw"])
    corners = [
        (length / 2, width / 2),
        (length / 2, -width / 2),
        (-length / 2, -width / 2),
        (-length / 2, width / 2),
    ]
    x, _, z = thing["place"]
    return shapely.Polygon([(x + cos * a + sin * b, z - sin * a + cos * b) for a, b in corners])


def image_part(a, b):
    width = min(a["box"][2], b["box"][2]) - max(a["box"][0], b["box"][0])
    height = min(a["box"][3], b["box"][3]) - max(a["box"][1], b["box"][1])
    return width * height if width > 0 and height > 0 else 0


def image_area(a):
    return (a["box"][2] - a["box"][0]) * (a["box"][3] - a["box"][1])


def overlap(kind, truth, found):
    if kind == "2d":
        shared = image_part(truth, found)
        return shared / (image_area(truth) + image_area(found) - shared)
    a, b = footprint(truth), footprint(found)
    shared, sizes = a.intersection(b).area, [a.area, b.area]
    if kind == "3d":
        low = min(truth["place"][1], found["place"][1])
        high = max(truth["place"][1] - truth["size"][0], found["place"][1] - found["size"][0])
        shared *= max(0, low - high)
        sizes = [a.area * truth["size"][0], b.area * found["size"][0]]
    return shared / (sum(sizes) - shared)


class Twin:
    """One metric at one difficulty over all frames."""

    def __init__(self, predictions, labels, metric, difficulty):
        self.kind, self.least = metric.removesuffix("_50"), METRICS[metric]
        min_height, max_occluded, max_truncated = LIMITS[difficulty]
        self.frames, self.num_objects = [], 0
        for found, truth in zip(map(objects, predictions), map(objects, labels), strict=True):
            targets = []
            for thing in truth:
                height = thing["box"][3] - thing["box"][1]
                hard = thing["occluded"] > max_occluded or thing["truncated"] > max_truncated
                if thing["name"] == "Car" and not hard and not height <= min_height:
                    targets.append((thing, 0))
                    self.num_objects += 1
                elif thing["name"] in ("Car", "Van"):
                    targets.append((thing, 1))
            candidates = []
            for thing in found:
                if int(abs(thing["box"][1] - thing["box"][3])) < min_height:
                    candidates.append((thing, 1))
                elif thing["name"] == "Car":
                    candidates.append((thing, 0))
            regions = [thing for thing in truth if thing["name"] == "DontCare"]
            table = [[overlap(self.kind, a, b) for b, _ in candidates] for a, _ in targets]
            self.frames.append((targets, candidates, regions, table))

    def scores(self):
        scores = []
        for targets, candidates, _, table in self.frames:
            free = set(range(len(candidates)))
            for (_, ignored), row in zip(targets, table, strict=True):
                fitting = [index for index in sorted(free) if row[index] > self.least]
                if fitting:
                    choice = max(fitting, key=lambda index: candidates[index][0]["score"])
                    free.remove(choice)
                    if not ignored and not candidates[choice][1]:
                        scores.append(candidates[choice][0]["score"])
        return sorted(scores, reverse=True)

    def precision(self, threshold):
        right = wrong = 0
        for targets, candidates, regions, table in self.frames:
            free = {index for index, (thing, _) in enumerate(candidates) if thing["score"] >= threshold}
            for (_, ignored), row in zip(targets, table, strict=True):
                fitting = [index for index in sorted(free) if row[index] > self.least]
                valid = [index for index in fitting if not candidates[index][1]]
                if not fitting:
                    continue
                choice = max(valid, key=lambda index: row[index]) if valid else fitting[0]
                free.remove(choice)
                right += not ignored and bool(valid)
            for index in free:
                thing, ignored = candidates[index]
                excused = self.kind == "2d" and any(
                    image_part(region, thing) / image_area(thing) > self.least for region in regions
                )
                wrong += not ignored and not excused
        return right / (right + wrong) if right + wrong else 0

    def average(self):
        precision, recall, scores = [], 0.0, self.scores()
        for index, score in enumerate(scores):
            last = index == len(scores) - 1
            left = (index + 1) / self.num_objects
            right = left if last else (index + 2) / self.num_objects
            if right - recall < recall - left and not last:
                continue
            precision.append(self.precision(score))
            recall += 1 / 40
        precision += [0] * (41 - len(precision))
        precision = [max(precision[index:]) for index in range(41)]
        return {"R11": 100 * sum(precision[::4]) / 11, "R40": 100 * sum(precision[1:]) / 40}


def scene(rng, size):
    """Objects with scores in few places, so that they compete; no step makes an overlap just 0.5 or 0.7."""
    names = rng.choice(["Car", "Van", "Pedestrian", "DontCare"], size, p=[0.7, 0.1, 0.1, 0.1])
    place = rng.integers(0, 4, size)
    left = 100 * place + rng.choice([0, 0, 5, 20], size)
    top = rng.choice([100, 100, 103], size)
    height_px = rng.choice([20, 25, 26, 40, 41, 60], size, p=[0.1, 0.05, 0.05, 0.1, 0.2, 0.5])
    x, z = (10 * place + rng.choice([0, 0, 0.1, 0.7, -0.9], size) for _ in range(2))
    y = rng.choice([1.6, 1.6, 1.7, 2.1], size)
    yaw = rng.choice([0, 0, 0.2, math.pi, math.pi / 2, -1.2], size)
    scores = rng.integers(1, 12, size) / 12
    columns = [rng.choice([0, 0.2, 0.4, 0.6], size, p=[0.7, 0.1, 0.1, 0.1])]
    columns += [rng.choice([0, 1, 2, 3], size, p=[0.7, 0.1, 0.1, 0.1]), 0 * x]
    columns += [
        left,
        top,
        left + 80,
        top + height_px,
        0 * x + 1.53,
        0 * x + 2,
        0 * x + 4,
        x,
        y,
        z,
        yaw,
        scores,
    ]
    return KittiLabels.from_table(tuple(names), np.column_stack(columns))


def assert_equal_to_twin(predictions, labels):
    result = evaluate(predictions, labels)["Car"]
    for metric in METRICS:
        for difficulty in LIMITS:
            twin = Twin(predictions, labels, metric, difficulty).average()
            for recalls, expected in twin.items():
                assert result[metric][recalls][difficulty] == pytest.approx(expected), (metric, difficulty)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 7), st.integers(0, 10))
def test_few_objects(seed, num_frames, num_objects, num_found):
    rng = np.random.default_rng(seed)
    labels = [scene(rng, num_objects) for _ in range(num_frames)]
    assert_equal_to_twin([scene(rng, num_found) for _ in range(num_frames)], labels)


def detections(rng, labels):
    """Each object of ``labels`` with probability 0.8, moved a little, with a high score; and false ones."""
    right, wrong = labels.select(rng.uniform(size=len(labels)) < 0.8), scene(rng, 8)
    right.locations_m[:] += rng.normal(0, 0.15, (len(right), 3))
    right.scores[:] = rng.integers(6, 40, len(right)) / 40
    wrong.scores[:] /= 2
    columns = [np.concatenate([getattr(right, f.name), getattr(wrong, f.name)]) for f in fields(right)]
    return KittiLabels(tuple(columns[0]), *columns[1:])


@pytest.mark.parametrize("seed", range(3))
def test_many_objects(seed):
    rng = np.random.default_rng(seed)
    labels = [scene(rng, 6) for _ in range(40)]
    predictions = [detections(rng, truth) for truth in labels]
    assert_equal_to_twin(predictions, labels)
    # Recall goes far enough for the choice among thresholds to matter, and precision is neither 0 nor 1.
    assert 20 < evaluate(predictions, labels)["Car"]["bev"]["R40"]["moderate"] < 80


def test_order_of_frames_does_not_matter_nor_does_the_scale_of_scores():
    rng = np.random.default_rng(7)
    labels = [scene(rng, 6) for _ in range(10)]
    predictions = [detections(rng, truth) for truth in labels]
    result = evaluate(predictions, labels)
    assert evaluate(predictions[::-1], labels[::-1]) == result
    for found in predictions:
        found.scores[:] = 100 * found.scores**3 - 7
    assert evaluate(predictions, labels) == result
