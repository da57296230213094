"""Bands of range, and what became of every object and detection: cases by hand, and parts that make the whole."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.evaluate import Rates, best_f1_score, frame_pairs, match_counts
from detector.labels import KittiLabels
from detector.matching import ANY_HEIGHT, DIFFICULTIES, METRICS, FramePair
from detector.overlaps import ground_range_m
from detector.ranges import RANGES_M, evaluate_ranges

BANDS = [ANY_HEIGHT._replace(min_range_m=low_m, max_range_m=high_m) for low_m, high_m in RANGES_M.values()]


def thing(z, x=0.0, score=math.nan, name="Car", height_px=60.0, occluded=0):
    """A car 4 m long, along the camera's x, at a distance z; cars 5 m apart share nothing."""
    return name, (0, occluded, 0, 100, 100, 180, 100 + height_px, 1.5, 2.0, 4.0, x, 1.65, z, 0.0, score)


def frame(*things):
    return KittiLabels.from_table(tuple(name for name, _ in things), np.array([row for _, row in things], float))


def test_rates_in_closed_form():
    precision, recall, f1 = Rates.of(np.array([[3, 1, 2], [0, 0, 5], [0, 4, 0], [7, 0, 0]]))
    assert precision.tolist() == [3 / 4, 0, 0, 1]
    assert recall.tolist() == [3 / 5, 0, 0, 1]
    assert f1 == pytest.approx([2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5), 0, 0, 1])


def test_range_is_over_the_ground():
    assert ground_range_m(frame(thing(4, x=-3), thing(30))).tolist() == [5, 30]


def test_bands_are_half_open_and_cover_everything():
    truth = frame(*[thing(z) for z in (10, 29.99, 30, 49.99, 50, 200)])
    counted = np.array([~FramePair(KittiLabels.empty(), truth).truth_ignored(band) for band in BANDS])
    assert counted.sum(axis=0).tolist() == [1] * 6, "each car in one band"
    assert counted.sum(axis=1).tolist() == [2, 2, 2]


def test_false_alarms_of_one_band_do_not_count_in_another():
    row = [5.0 * number - 100 for number in range(41)]
    far = [(z, x) for z in (200, 300) for x in row]
    truth = frame(*[thing(z, x) for z, x in far], *[thing(40, x) for x in (-10, -5, 0, 5, 10)])
    found = frame(*[thing(z, x, score=0.9) for z, x in far], thing(45, score=0.95))
    near, middle, distant = evaluate_ranges([found], [truth]).values()
    assert [facts["cars"] for facts in (near, middle, distant)] == [0, 5, 82]
    assert distant["bev"] == distant["3d_50"] == 100 and middle["bev"] == near["bev"] == 0


def test_a_car_at_the_edge_is_found_by_a_detection_beyond_it():
    pair = FramePair(frame(thing(30.05, score=0.8)), frame(thing(29.95)))
    near, middle, _ = (pair.counts(METRICS["bev"], band, np.array([0.5])).tolist() for band in BANDS)
    assert near == [[1, 0, 0]] and middle == [[0, 0, 0]]


def test_how_small_a_car_is_in_the_image_does_not_matter_at_any_height():
    pair = FramePair(frame(thing(60, score=0.8, height_px=0)), frame(thing(60, height_px=0)))
    assert pair.counts(METRICS["bev"], ANY_HEIGHT, np.array([0.5])).tolist() == [[1, 0, 0]]
    assert pair.counts(METRICS["bev"], DIFFICULTIES["hard"], np.array([0.5])).tolist() == [[0, 0, 0]]


@st.composite
def scenes(draw):
    """Cars and vans near the ends of the bands, and detections that hit, nearly hit, or miss them."""
    places = st.tuples(st.sampled_from([10, 28, 30, 32, 48, 50, 52, 70]), st.sampled_from([-8, 0, 8]))
    objects = draw(st.lists(places, max_size=6, unique=True))
    names = [draw(st.sampled_from(["Car", "Car", "Van"])) for _ in objects]
    truth = frame(
        *[thing(z, x, name=name, occluded=draw(st.integers(0, 3))) for (z, x), name in zip(objects, names, strict=True)]
    )
    shift = st.sampled_from([0.0, 0.2, 0.9, 3.0])
    number = st.integers(1, 9)
    found = [
        thing(z + draw(shift), x, score=draw(number) / 10, height_px=draw(st.sampled_from([10.0, 60.0])))
        for z, x in draw(st.lists(places, max_size=6))
    ]
    return (frame(*found) if found else KittiLabels.empty()), (truth if objects else KittiLabels.empty())


@settings(max_examples=60)
@given(st.lists(scenes(), min_size=1, max_size=3), st.sampled_from(["bev", "bev_50", "3d"]))
def test_bands_make_the_whole(frames, metric):
    found, truth = zip(*frames, strict=True)
    pairs, thresholds = frame_pairs(found, truth), np.array([0.0, 0.35, 0.8])
    parts = [match_counts(pairs, METRICS[metric], band, thresholds) for band in BANDS]
    assert np.array_equal(sum(parts), match_counts(pairs, METRICS[metric], ANY_HEIGHT, thresholds))


@settings(max_examples=60)
@given(scenes(), st.sampled_from(["2d", "bev", "bev_50"]), st.sampled_from(list(DIFFICULTIES)), st.integers(0, 10))
def test_fates_are_what_is_counted(scene, metric, difficulty, tenths):
    found, truth = scene
    pair, score = FramePair(found, truth), tenths / 10
    fates = pair.fates(METRICS[metric], DIFFICULTIES[difficulty], score)
    missed = int((fates.counted & (fates.taken < 0)).sum())
    expected = pair.counts(METRICS[metric], DIFFICULTIES[difficulty], np.array([score]))[0]
    assert [int(fates.right.sum()), int(fates.wrong.sum()), missed] == expected.tolist()
    assert not (fates.right & fates.wrong).any() and (found.scores[fates.right | fates.wrong] >= score).all()


def test_the_best_threshold_is_the_best_of_all():
    """Of four cars right at 0.9, 0.8 and 0.4, wrong at 0.7, 0.6 and 0.5: F1 is 2/5, 4/6, … and at last 6/10."""
    truth = frame(*[thing(20, x=5.0 * place) for place in range(4)])
    scores = {0: 0.9, 1: 0.8, 2: 0.4}
    wrong = [thing(40, x=5.0 * place, score=score) for place, score in enumerate((0.7, 0.6, 0.5))]
    found = frame(*[thing(20, x=5.0 * place, score=score) for place, score in scores.items()], *wrong)
    score, f1 = best_f1_score([found], [truth])
    assert (score, f1) == (0.8, pytest.approx(4 / 6))
