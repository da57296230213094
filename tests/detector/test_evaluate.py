"""The KITTI protocol in cases worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from detector.errors import LabelError
from detector.evaluate import best_f1_score, evaluate, recall_thresholds
from detector.labels import KittiLabels
from detector.matching import ABSENT, COUNTED, IGNORED, count_matches, true_positive_scores
from detector.overlaps import box_overlaps

METRICS = ("2d", "bev", "3d", "bev_50", "3d_50")
DIFFICULTIES = ("easy", "moderate", "hard")


def thing(
    place,
    score=math.nan,
    name="Car",
    height_px=60.0,
    occluded=0,
    truncated=0.0,
    dx=0.0,
    dy=0.0,
    yaw=0.0,
    du=0.0,
):
    """One line of a label file. Things in different places share nothing, in the image or on the ground."""
    left, top = 100.0 * place + du, 100.0
    box_3d = (1.53, 2.0, 4.0, 10.0 * place + dx, 1.65 + dy, 20.0, yaw)
    return name, (truncated, occluded, 0, left, top, left + 80, top + height_px, *box_3d, score)


def frame(*things):
    return KittiLabels.from_table(tuple(name for name, _ in things), np.array([row for _, row in things], float))


def ap(found, truth, metric="3d", recalls="R40", difficulty="moderate"):
    return evaluate([found], [truth])["Car"][metric][recalls][difficulty]


# --- Few objects reach few of the 41 recalls: K thresholds fill precision[0:K], the rest is 0.
# R40 leaves out the first, R11 takes every fourth: 0, 4, 8, … ---


@pytest.mark.parametrize(
    ("count", "r40", "r11"),
    [
        (1, 0, 100 / 11),  # one threshold: precision[0] only, which R40 does not look at
        (2, 100 * 1 / 40, 100 / 11),
        (5, 100 * 4 / 40, 100 * 2 / 11),  # precision[0:5] = 1, of which R11 sees 0 and 4
        (40, 100 * 39 / 40, 100 * 10 / 11),
        (41, 100, 100),
        (80, 100, 100),
    ],
)
def test_perfect_detections(count, r40, r11):
    truth = frame(*[thing(place) for place in range(count)])
    found = frame(*[thing(place, score=1 - place / 100) for place in range(count)])
    for metric in METRICS:
        for difficulty in DIFFICULTIES:
            assert ap(found, truth, metric, "R40", difficulty) == pytest.approx(r40)
            assert ap(found, truth, metric, "R11", difficulty) == pytest.approx(r11)


def test_a_duplicate_is_a_false_positive():
    truth = frame(thing(0), thing(1))
    # Thresholds 0.9 and 0.7; at 0.7 two are right and one is wrong: precision 1, 2/3.
    found = frame(thing(0, 0.9), thing(0, 0.8), thing(1, 0.7))
    assert ap(found, truth) == pytest.approx(100 * (2 / 3) / 40)
    assert ap(found, truth, recalls="R11") == pytest.approx(100 / 11)


def test_precision_is_the_best_at_this_recall_or_beyond():
    truth = frame(thing(0), thing(1))
    # The best score is wrong: precision 1/2 at 0.8 and 2/3 at 0.7, so 2/3 at both.
    found = frame(thing(5, 0.9), thing(0, 0.8), thing(1, 0.7))
    assert ap(found, truth) == pytest.approx(100 * (2 / 3) / 40)
    assert ap(found, truth, recalls="R11") == pytest.approx(100 * (2 / 3) / 11)


def test_equal_scores_stand_or_fall_together():
    truth = frame(thing(0), thing(1))
    # Both thresholds are 0.5, where two are right and one is wrong.
    found = frame(thing(0, 0.5), thing(7, 0.5), thing(1, 0.5))
    assert ap(found, truth) == pytest.approx(100 * (2 / 3) / 40)


def test_a_van_is_neither_right_nor_wrong():
    found = frame(thing(0, 0.9), thing(1, 0.8), thing(2, 0.95))
    assert ap(found, frame(thing(0), thing(1), thing(2, name="Van"))) == pytest.approx(100 / 40)
    # A truck there instead: wrong. Precision 1/2, 2/3.
    assert ap(found, frame(thing(0), thing(1), thing(2, name="Truck"))) == pytest.approx(100 * (2 / 3) / 40)
    # Nor is a van missed.
    assert ap(frame(thing(0, 0.9), thing(1, 0.8)), frame(thing(0), thing(1), thing(2, name="Van"))) == 2.5


def test_detections_too_small_in_the_image_are_ignored():
    truth = frame(thing(0), thing(1))
    good = [thing(0, 0.9), thing(1, 0.8)]
    assert ap(frame(*good, thing(5, 0.95, height_px=24.9)), truth) == pytest.approx(100 / 40)
    assert ap(frame(*good, thing(5, 0.95, height_px=25)), truth) == pytest.approx(100 * (2 / 3) / 40)
    # 30 pixels are enough for moderate, not for easy.
    assert ap(frame(*good, thing(5, 0.95, height_px=30)), truth, difficulty="easy") == pytest.approx(100 / 40)


def test_an_object_taken_by_an_ignored_detection_is_neither_found_nor_missed():
    truth = frame(thing(0), thing(1), thing(2))
    # Also by one of another class: height is looked at before the class.
    small = thing(2, 0.95, name="Pedestrian", height_px=20)
    found = frame(thing(0, 0.9), thing(1, 0.8), small)
    assert best_f1_score([found], [truth], "3d") == (0.8, 1.0)
    assert best_f1_score([frame(thing(0, 0.9), thing(1, 0.8))], [truth], "3d") == (0.8, pytest.approx(4 / 5))


def test_other_classes_do_not_count():
    truth = frame(thing(0), thing(1), thing(2, name="Pedestrian"))
    others = [thing(2, 0.95), thing(3, 0.99, name="Van"), thing(4, 0.99, name="Cyclist")]
    # Only the car found on the pedestrian is wrong.
    assert ap(frame(thing(0, 0.9), thing(1, 0.8), *others), truth) == pytest.approx(100 * (2 / 3) / 40)


def test_dont_care_excuses_in_the_image_only():
    region = thing(2, name="DontCare", height_px=300)
    truth = frame(thing(0), thing(1), region)
    found = frame(thing(0, 0.9), thing(1, 0.7), thing(2, 0.8))
    assert ap(found, truth, "2d") == pytest.approx(100 / 40)
    for metric in ("bev", "3d", "bev_50", "3d_50"):
        assert ap(found, truth, metric) == pytest.approx(100 * (2 / 3) / 40)


@pytest.mark.parametrize(("du", "precision"), [(20, 1), (28, 2 / 3)])
def test_dont_care_must_cover_more_than_seven_tenths_of_the_detection(du, precision):
    # Shifted by 20 of 80 pixels, 0.75 is covered; by 28, 0.65. The region's own size does not matter.
    truth = frame(thing(0), thing(1), thing(3, name="DontCare", height_px=250))
    found = frame(thing(0, 0.9), thing(1, 0.7), thing(3, 0.8, du=du))
    assert ap(found, truth, "2d") == pytest.approx(100 * precision / 40)


@pytest.mark.parametrize(
    ("changes", "counting"),
    [
        ({"height_px": 40.0}, {"moderate", "hard"}),
        ({"height_px": 40.1}, {"easy", "moderate", "hard"}),
        ({"height_px": 25.0}, set()),
        ({"height_px": 25.1}, {"moderate", "hard"}),
        ({"occluded": 1}, {"moderate", "hard"}),
        ({"occluded": 2}, {"hard"}),
        ({"occluded": 3}, set()),
        ({"truncated": 0.15}, {"easy", "moderate", "hard"}),
        ({"truncated": 0.16}, {"moderate", "hard"}),
        ({"truncated": 0.30}, {"moderate", "hard"}),
        ({"truncated": 0.50}, {"hard"}),
        ({"truncated": 0.51}, set()),
    ],
)
def test_difficulties(changes, counting):
    truth = frame(thing(0, **changes), thing(1, **changes))
    found = frame(thing(0, 0.9), thing(1, 0.8))
    scores = {difficulty: ap(found, truth, "bev", difficulty=difficulty) for difficulty in DIFFICULTIES}
    # Without an object that counts, AP is 0.
    assert scores == {difficulty: 2.5 if difficulty in counting else 0 for difficulty in DIFFICULTIES}


def test_overlap_on_the_ground_and_in_height():
    truth = frame(thing(0), thing(1))

    def scores(**changes):
        found = frame(thing(0, 0.9, **changes), thing(1, 0.8, **changes))
        return {metric: ap(found, truth, metric) > 0 for metric in METRICS}

    assert scores() == dict.fromkeys(METRICS, True)
    # A metre along: 3 of 5, 0.6.
    assert scores(dx=1) == {"2d": True, "bev": False, "3d": False, "bev_50": True, "3d_50": True}
    # 0.4 m down: 1.13 of 1.93, 0.59; a whole height down: nothing shared.
    assert scores(dy=0.4) == {"2d": True, "bev": True, "3d": False, "bev_50": True, "3d_50": True}
    assert scores(dy=1.53) == {"2d": True, "bev": True, "3d": False, "bev_50": True, "3d_50": False}
    # Turned round is the same box, turned across shares 4 of 12 m².
    assert scores(yaw=math.pi) == dict.fromkeys(METRICS, True)
    assert scores(yaw=math.pi / 2) == {"2d": True, "bev": False, "3d": False, "bev_50": False, "3d_50": False}
    # 10 of 80 pixels aside: 0.78; 20: 0.6.
    assert scores(du=10)["2d"] and not scores(du=20)["2d"]


def test_rotation_y_turns_x_towards_minus_z():
    # Facing along camera (1, -1): moving along the heading overlaps more than moving across it.
    turned = frame(thing(0, yaw=math.pi / 4))
    along, across = (
        replace(turned, locations_m=turned.locations_m + np.array([[1, 0, sign]]) / math.sqrt(2)) for sign in (-1, 1)
    )
    assert box_overlaps(turned, along)[0][0, 0] == pytest.approx(3 / 5)
    assert box_overlaps(turned, across)[0][0, 0] == pytest.approx(1 / 3)


def test_boxes_without_size_match_nothing():
    unknown = replace(frame(thing(0, 0.9)), dimensions_m=np.full((1, 3), -1.0))
    assert box_overlaps(unknown, unknown)[0][0, 0] == 0
    assert box_overlaps(unknown, unknown)[1][0, 0] == 0


def test_nothing_found_and_nothing_there():
    empty = KittiLabels.empty()
    for found, truth in ((empty, empty), (empty, frame(thing(0))), (frame(thing(0, 0.5)), empty)):
        assert ap(found, truth) == 0
        assert best_f1_score([found], [truth]) == (0.0, 0.0)
    assert ap(empty, empty, "2d") == 0
    assert set(evaluate([], [])["Car"]) == set(METRICS)


def test_frames_do_not_mix():
    first, second = frame(thing(0)), frame(thing(1))
    found = [frame(thing(1, 0.9)), frame(thing(0, 0.8))]
    assert evaluate(found, [first, second])["Car"]["3d"]["R11"]["easy"] == 0
    assert evaluate(found[::-1], [first, second])["Car"]["3d"]["R40"]["easy"] == 2.5


def test_best_f1():
    truth = frame(*[thing(place) for place in range(4)])
    # F1 at 0.9: 2/(2+0+3); at 0.7: 4/(4+1+2); at 0.2: 6/(6+2+1), the best; nothing is right below.
    found = frame(thing(0, 0.9), thing(7, 0.8), thing(1, 0.7), thing(8, 0.3), thing(2, 0.2), thing(9, 0.1))
    assert best_f1_score([found], [truth]) == (0.2, pytest.approx(6 / 9))


def test_a_detection_without_score_is_refused():
    with pytest.raises(LabelError, match=r"frame number 0: 1 of 2 objects have no score"):
        evaluate([frame(thing(0, 0.5), thing(1))], [frame(thing(0))])
    with pytest.raises(ValueError, match="1 frames of predictions, 0 of labels"):
        evaluate([KittiLabels.empty()], [])


def test_recall_thresholds():
    # Of 80, every second score is nearest to a multiple of 1/40, after the first.
    scores = np.linspace(1, 0.21, 80)
    np.testing.assert_array_equal(recall_thresholds(scores[::-1], 80), scores[[0, *range(1, 80, 2)]])
    # Recall ends at 1/10, so the thresholds do: 0, 1/40, … 4/40.
    assert len(recall_thresholds(scores, 800)) == 5


# --- The choice among detections, one object at a time. ---


def match(overlaps, truth_ignored, found_state, threshold=0.0):
    overlaps = np.array(overlaps, float)
    scores = np.linspace(0.9, 0.1, overlaps.shape[1])
    counts = count_matches(
        overlaps,
        np.zeros(len(scores), bool),
        np.array(truth_ignored, bool),
        np.array(found_state, np.int8),
        scores,
        0.5,
        np.array([threshold]),
    )
    return tuple(counts[0])


@pytest.mark.parametrize(
    ("overlaps", "truth_ignored", "found_state", "expected"),
    [
        # Exactly the minimum is not enough.
        ([[0.5]], [0], [COUNTED], (0, 1, 1)),
        # A counted detection replaces an ignored one, before or after it, even with less overlap.
        ([[0.9, 0.6]], [0], [IGNORED, COUNTED], (1, 0, 0)),
        ([[0.6, 0.9]], [0], [COUNTED, IGNORED], (1, 0, 0)),
        # The largest overlap wins and leaves the other one to the next object.
        ([[0.6, 0.9], [0.7, 0.0]], [0, 0], [COUNTED, COUNTED], (2, 0, 0)),
        ([[0.9, 0.6], [0.7, 0.0]], [0, 0], [COUNTED, COUNTED], (1, 1, 1)),
        # Among ignored ones the first wins, whatever its overlap: nothing is left for the second object.
        ([[0.6, 0.9], [0.7, 0.0]], [0, 0], [IGNORED, IGNORED], (0, 0, 1)),
        # An ignored object takes a detection, and comes in its turn.
        ([[0.9], [0.9]], [1, 0], [COUNTED], (0, 0, 1)),
        ([[0.9], [0.9]], [0, 1], [COUNTED], (1, 0, 0)),
        # What is absent takes nothing and is not wrong.
        ([[0.9]], [0], [ABSENT], (0, 0, 1)),
    ],
)
def test_choice_among_detections(overlaps, truth_ignored, found_state, expected):
    assert match(overlaps, truth_ignored, found_state) == expected


def test_thresholds_come_from_the_best_score_not_the_largest_overlap():
    overlaps, state = np.array([[0.6, 0.9]]), np.array([COUNTED, COUNTED], np.int8)
    chosen = true_positive_scores(overlaps, np.array([False]), state, np.array([0.8, 0.4]), 0.5)
    assert chosen.tolist() == [0.8]
    # And a best-scoring detection that is ignored hides the object.
    state[0] = IGNORED
    chosen = true_positive_scores(overlaps, np.array([False]), state, np.array([0.8, 0.4]), 0.5)
    assert chosen.tolist() == []
