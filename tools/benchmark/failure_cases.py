"""What a detector misses and what it takes for a car: every labelled object and every false alarm with its facts.

Found means an overlap of half, seen from above; placed well means KITTI's 0.7. Cars of any size in the image count, as
occluded and truncated as KITTI's "hard" allows, at the score that the network itself gives as the best.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.boxes import boxes_from_labels, labels_from_boxes, points_in_box
from detector.labels import CAR, NEIGHBOUR, KittiLabels
from detector.matching import ANY_HEIGHT, METRICS, FramePair
from detector.overlaps import box_overlaps, ground_range_m, image_overlaps
from detector.pipeline import Pipeline
from detector.ranges import RANGES_M
from detector.types import Frame, FrameResult
from tools.benchmark.mask_sources import car_shares
from tools.training.dataset import LabelledFrame

FOUND, WELL_PLACED = METRICS["bev_50"], METRICS["bev"]
POINTS_FROM = (0, 5, 10, 20, 50, 200)  # ends of the bins of points on a car
FEW_POINTS = 20
VIEW_FROM_DEG = (0, 30, 60)
POINT_MARGIN_M = 0.1  # labelled boxes are often a little too small
TOUCHES = 0.1  # overlap from which a false alarm stands on something
DONT_CARE = 0.5  # share of a false alarm's 2D box inside a DontCare region
NEAR_CAR, UNLABELLED = "a labelled car or van, placed wrongly or found twice", "a DontCare region"
NOTHING = "nothing labelled"


class Thing(NamedTuple):
    """A labelled car or van: what it is, and whether it was found.

    Attributes:
        kind: its class.
        range_m: from the camera, over the ground.
        points: on it.
        occluded: KITTI's level.
        view_deg: between the line of sight and its heading: 0 is end on, 90 side on.
        inside: share of its cells in active tiles; None beyond the grid.
        counted: whether it is asked for: False for vans, and cars too occluded or truncated.
        found: by a box from the display score on.
        well_placed: likewise, with KITTI's overlap.
        doubted: by a box below the display score only.
    """

    kind: str
    range_m: float
    points: int
    occluded: int
    view_deg: float
    inside: float | None
    counted: bool = False
    found: bool = False
    well_placed: bool = False
    doubted: bool = False


@dataclass(frozen=True)
class Scene:
    """A frame with its labels, what was found in it, and how that fares.

    Attributes:
        frame: with labels.
        result: of the pipeline.
        truth: (G, 7) float64 boxes of labelled cars and vans, LiDAR frame.
        things: what these are.
        false_alarms: what stands where each of them is.
    """

    frame: LabelledFrame
    result: FrameResult
    truth: NDArray[np.float64]
    things: tuple[Thing, ...]
    false_alarms: tuple[str, ...]

    @classmethod
    def of(cls, frame: LabelledFrame, pipeline: Pipeline) -> Scene:
        """Detects, and holds it against the labels."""
        result = pipeline.detect(Frame(frame.points, frame.id, calibration=frame.calibration))
        detections = result.detections
        found, seen = labels_from_boxes(detections.boxes, frame.calibration, detections.labels, detections.scores)
        if not frame.surround:  # labelled where the camera looks
            found = found.select(seen)
        pair, score = FramePair(found, frame.labels), pipeline.network.info.display_score
        fates, strict = (pair.fates(metric, ANY_HEIGHT, score) for metric in (FOUND, WELL_PLACED))
        ever = pair.fates(FOUND, ANY_HEIGHT, 0.0).taken >= 0
        truth = boxes_from_labels(pair.truth, frame.calibration)
        alarms = tuple(stands_on(found.select(fates.wrong), frame.labels))
        things = describe(pair.truth, truth, frame.points, _inside(result, pipeline, truth))
        things = [
            thing._replace(
                counted=bool(fates.counted[row]),
                found=bool(fates.taken[row] >= 0),
                well_placed=bool(strict.taken[row] >= 0),
                doubted=bool(ever[row] and fates.taken[row] < 0),
            )
            for row, thing in enumerate(things)
        ]
        return cls(frame, result, truth, tuple(things), alarms)

    @property
    def cars(self) -> int:
        """Labelled cars that count."""
        return sum(thing.counted for thing in self.things)

    @property
    def missed(self) -> int:
        """Those of them that were not found."""
        return sum(thing.counted and not thing.found for thing in self.things)


def _inside(result: FrameResult, pipeline: Pipeline, truth: NDArray[np.float64]) -> list[float | None]:
    assert result.tiles is not None, "the pipeline gives tiles"
    shares = [car_shares(result.tiles, pipeline.spec, box[None].astype(np.float32)) for box in truth]
    return [share[0] if share else None for share in shares]


def describe(
    labels: KittiLabels, boxes: NDArray[np.float64], points: NDArray[np.float32], inside: Sequence[float | None]
) -> list[Thing]:
    """The facts of labelled objects, not yet whether they count and are found."""
    range_m = ground_range_m(labels)
    # alpha is 0 where a car heads to the right of the line of sight: then its side is seen.
    view_deg = np.degrees(np.arccos(np.clip(np.abs(np.sin(labels.alpha_rad)), 0, 1)))
    return [
        Thing(
            kind=labels.types[row],
            range_m=float(range_m[row]),
            points=int(points_in_box(points, boxes[row], POINT_MARGIN_M).sum()),
            occluded=int(labels.occluded[row]),
            view_deg=float(view_deg[row]),
            inside=inside[row],
        )
        for row in range(len(labels))
    ]


def stands_on(alarms: KittiLabels, labels: KittiLabels) -> list[str]:
    """What is labelled where each false alarm is: a class, `NEAR_CAR`, `UNLABELLED` or `NOTHING`."""
    names = np.array([name.lower() for name in labels.types], dtype=object)
    regions, things = labels.select(names == "dontcare"), labels.select(names != "dontcare")
    overlaps = box_overlaps(things, alarms)[0]
    covered = image_overlaps(regions, alarms)[1].max(axis=0, initial=0.0)
    what = []
    for column in range(len(alarms)):
        best = int(overlaps[:, column].argmax()) if len(things) else -1
        if best >= 0 and overlaps[best, column] >= TOUCHES:
            what.append(NEAR_CAR if things.types[best] in (CAR, NEIGHBOUR) else f"a labelled {things.types[best]}")
        else:
            what.append(UNLABELLED if covered[column] > DONT_CARE else NOTHING)
    return what


def recall_rows(things: Sequence[Thing]) -> list[dict[str, Any]]:
    """How many are found, by one property at a time; last the vans, which do not count."""
    counted, rows = [thing for thing in things if thing.counted], []
    for group, names, place in GROUPS:
        for number, name in enumerate(names):
            rows.append(_recall(group, name, [thing for thing in counted if place(thing) == number]))
    rows.append(
        _recall("class", "vans, which count neither way", [thing for thing in things if thing.kind == NEIGHBOUR])
    )
    return [row for row in rows if row["cars"]]


def _recall(group: str, name: str, things: Sequence[Thing]) -> dict[str, Any]:
    found, placed = sum(thing.found for thing in things), sum(thing.well_placed for thing in things)
    return {"group": group, "name": name, "cars": len(things), "found": found, "well_placed": placed}


def _tiles_bin(thing: Thing) -> int:
    if thing.inside is None:
        return 3
    return 2 if thing.inside == 1 else int(thing.inside > 0)


# What recall is told by: group, names of its bins, and which of them a thing belongs to.
GROUPS: tuple[tuple[str, tuple[str, ...], Callable[[Thing], int]], ...] = (
    ("all", ("all cars",), lambda thing: 0),
    (
        "points",
        (
            *(f"with {low}–{high - 1} points" for low, high in pairwise(POINTS_FROM)),
            f"with {POINTS_FROM[-1]} points or more",
        ),
        lambda thing: bisect_right(POINTS_FROM, thing.points) - 1,
    ),
    (
        "range",
        tuple(RANGES_M),
        lambda thing: bisect_right([low_m for low_m, _ in RANGES_M.values()], thing.range_m) - 1,
    ),
    ("occlusion", ("wholly visible", "partly occluded", "largely occluded"), lambda thing: thing.occluded),
    (
        "view",
        ("seen end on (to 30°)", "seen obliquely", "seen side on (from 60°)"),
        lambda thing: bisect_right(VIEW_FROM_DEG, thing.view_deg) - 1,
    ),
    (
        "tiles",
        ("outside active tiles", "partly in active tiles", "wholly in active tiles", "beyond the grid"),
        _tiles_bin,
    ),
)


def missed_counts(things: Sequence[Thing]) -> dict[str, int]:
    """All missed cars; those of them with a box below the score, with fewer than `FEW_POINTS`, and not looked at."""
    missed = [thing for thing in things if thing.counted and not thing.found]
    few = sum(thing.points < FEW_POINTS for thing in missed)
    unseen, doubted = sum(not thing.inside for thing in missed), sum(thing.doubted for thing in missed)
    return {"cars": len(missed), "doubted": doubted, "few_points": few, "unseen": unseen}


def false_alarm_counts(scenes: Sequence[Scene]) -> dict[str, int]:
    """What stands where false alarms are, most frequent first."""
    return dict(Counter(what for scene in scenes for what in scene.false_alarms).most_common())


def worst(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """The scenes with most missed cars and those with most false alarms, in turns, none twice."""
    by_missed = sorted(scenes, key=lambda scene: (-scene.missed, -len(scene.false_alarms)))
    by_false = sorted(scenes, key=lambda scene: (-len(scene.false_alarms), -scene.missed))
    turns = [scene for pair in zip(by_missed, by_false, strict=True) for scene in pair]
    chosen: list[Scene] = []
    for scene in turns:
        if all(scene is not other for other in chosen):
            chosen.append(scene)
    return chosen[:count]
