"""Training data: targets, augmentation and samples against closed forms. No PyTorch needed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from detector.boxes import RECTANGLE, points_in_box
from detector.calibration import write_object_calibration
from detector.errors import LabelError
from kernels.decode import decode
from kernels.rotated_iou import rotated_iou
from models.grid import BevSpec
from tests.training_frames import CAR, car_points, frame_with_a_car
from tools.training.augment import AugmentConfig, augment, hide, mirror, move_cars, paste_cars, turn
from tools.training.computed_tiles import ComputedConfig, draw_tiles
from tools.training.dataset import CutObject, TrainingData, load_frames, load_simulated
from tools.training.samples import SampleConfig, SampleMaker, WindowConfig
from tools.training.targets import make_targets

SPEC = BevSpec(x_max_m=12.8, y_min_m=-6.4, y_max_m=6.4)
WINDOW = WindowConfig(rows=64, cols=64)
STILL = AugmentConfig(
    pasted_cars=0,
    rotation_rad=0,
    scale=0,
    height_m=0,
    beam_dropout=0,
    intensity_dropout=0,
)


def test_targets_decode_back_to_the_box():
    score, regression, ignored = make_targets(CAR[None], np.array([True]), (0.0, -4.0), 0.4, (60, 40))
    assert 4 <= score.sum() <= 20
    boxes, _ = decode(score, np.ascontiguousarray(regression.transpose(1, 2, 0)), (0.0, -4.0), 0.4, 0.5, 100)
    np.testing.assert_allclose(boxes, np.tile(CAR, (len(boxes), 1)), atol=1e-5)
    assert ignored.sum() > score.sum() and not (ignored & (score > 0)).any()


def test_a_tiny_car_still_gets_a_cell_and_a_neighbour_is_ignored():
    tiny, van = CAR.copy(), CAR.copy()
    tiny[3:5] = 0.2
    van[0] += 8
    score, _, ignored = make_targets(np.stack([tiny, van]), np.array([True, False]), (0.0, -4.0), 0.4, (60, 40))
    assert score.sum() == 1
    row, col = int(van[0] / 0.4), int((van[1] + 4) / 0.4)
    assert ignored[row, col] and not score[row, col]


@pytest.mark.parametrize("x", [-50.0, 500.0, 24.0])
def test_boxes_outside_the_window_do_no_harm(x):
    box = CAR.copy()
    box[0] = x
    score, _, _ = make_targets(box[None], np.array([True]), (0.0, -4.0), 0.4, (60, 40))
    assert score.sum() == (0 if x != 24.0 else score[-6:].sum())


def test_mirror_and_turn_keep_points_in_their_box():
    rng = np.random.default_rng(0)
    points, boxes = car_points(rng, CAR), CAR[None].copy()
    inside = points_in_box(points, boxes[0], 0.01).sum()
    assert inside == len(points)
    mirror(points, boxes)
    turn(points, boxes, 1.1)
    assert points_in_box(points, boxes[0], 0.01).sum() == inside
    assert np.hypot(*boxes[0, :2]) == pytest.approx(np.hypot(*CAR[:2]), rel=1e-5)


def test_hide_removes_only_what_lies_behind():
    wall = np.array([[5, y, z, 0] for y in np.arange(-1, 1, 0.01) for z in np.arange(-1, 1, 0.02)], np.float32)
    points = np.array([[10, 0, 0, 0], [4, 0, 0, 0], [10, 8, 0, 0], [-10, 0, 0, 0]], np.float32)
    assert hide(points, wall)[:, :2].tolist() == [[4, 0], [10, 8], [-10, 0]]


def test_cars_move_with_their_points_and_touch_no_other():
    rng = np.random.default_rng(5)
    # The ground lies 10 cm above the bottoms of the boxes.
    boxes = np.array([[6.0, y, -1.0, 4.0, 1.6, 1.5, 0.4] for y in (1.0, 3.2)], np.float32)
    ground = frame_with_a_car(rng).points[:3000]
    points = np.concatenate([ground, *(car_points(rng, box) for box in boxes)])
    points[:, 3] = np.arange(len(points))  # a number to know each by
    config = AugmentConfig(car_shift_m=0.3, car_turn_rad=0.15)
    shifts, turns = [], []
    for _ in range(200):
        moved = boxes.copy()
        moved_points = move_cars(points, moved, config, rng)
        assert rotated_iou(moved[:1, RECTANGLE], moved[1:, RECTANGLE]) == 0
        for box, before in zip(moved, boxes, strict=True):
            # In the coordinates of the box, its points are what they were; no others came in.
            np.testing.assert_allclose(in_box(moved_points, box), in_box(points, before), atol=1e-4)
        shifts.append(moved[:, :2] - boxes[:, :2])
        turns.append(moved[:, 6] - boxes[:, 6])
    stayed = np.all(np.array(shifts) == 0, axis=2)
    assert 0.05 < stayed.mean() < 0.6, "neighbours are in each other's way now and then"
    assert np.std(np.array(shifts)[~stayed]) == pytest.approx(0.3, rel=0.2)
    assert 0.13 < np.abs(turns).max() <= 0.151
    frame = frame_with_a_car(rng)
    varied = augment(frame, [], replace(STILL, car_shift_m=0.3), rng)
    assert not np.allclose(np.abs(varied.boxes[:, :2]), np.abs(frame.boxes[:, :2]), atol=0.01)


def in_box(points, box):
    """The points in a box and just beside it, in its coordinates, by number."""
    found = points[points_in_box(points, box, 0.04)]
    found[:, :3] -= box[:3]
    turn(found, np.zeros((0, 7), np.float32), -box[6])
    return found[np.argsort(found[:, 3])]


def test_pasted_cars_stand_on_the_ground_apart_from_others():
    rng = np.random.default_rng(3)
    frame = frame_with_a_car(rng)
    source = np.array([8.0, 0.0, 5.0, 4.0, 1.6, 1.5, 1.0], np.float32)  # floats 5 m up, where it came from
    cut = CutObject(source, car_points(rng, source))
    pasted = 0
    for _ in range(20):
        points, boxes, counted = paste_cars(frame.points, frame.boxes, frame.counted, [cut], 5, rng)
        assert len(boxes) == len(counted)
        for box in boxes[1:]:
            pasted += 1
            assert box[2] - box[5] / 2 == pytest.approx(-1.65, abs=0.05)
            assert points_in_box(points, box, 0.05).sum() >= 5
            assert np.hypot(*(box[:2] - boxes[0, :2])) >= 3
    assert pasted > 5


@pytest.mark.parametrize(("surround", "widest_rad"), [(False, np.radians(40)), (True, np.pi)])
def test_cars_are_pasted_where_the_frame_shows_something(surround, widest_rad):
    rng = np.random.default_rng(4)
    ground = np.column_stack([rng.uniform(-12, 12, (12000, 2)), np.full((12000, 2), -1.65)]).astype(np.float32)
    frame = frame_with_a_car(rng)
    frame = replace(frame, points=ground, boxes=frame.boxes[:0], counted=frame.counted[:0], surround=surround)
    source = np.array([8.0, 0.0, -0.9, 4.0, 1.6, 1.5, 1.0], np.float32)
    still = replace(STILL, pasted_cars=5)
    found = [augment(frame, [CutObject(source, car_points(rng, source))], still, rng).boxes for _ in range(20)]
    azimuth_rad = np.abs(np.arctan2(*np.concatenate(found)[:, 1::-1].T))
    assert len(azimuth_rad) > 20 and 0.8 * widest_rad < azimuth_rad.max() <= widest_rad + 1e-3


def test_half_turns_show_what_was_ahead_behind():
    rng = np.random.default_rng(6)
    frame = frame_with_a_car(rng)
    found = [augment(frame, [], replace(STILL, half_turns=0.5), rng) for _ in range(40)]
    behind = [each for each in found if each.boxes[0, 0] < 0]
    assert 10 < len(behind) < 30, "half of them"
    for each in behind:
        sign = -1 if each.motion.mirrored else 1
        np.testing.assert_allclose(each.points[:, :2], -frame.points[:, :2] * [1, sign], atol=1e-5)
        np.testing.assert_allclose(each.boxes[:, :2], -frame.boxes[:, :2] * [1, sign], atol=1e-5)
        np.testing.assert_allclose(np.cos(each.boxes[:, 6]), -np.cos(frame.boxes[:, 6]), atol=1e-5)


@pytest.mark.parametrize("number", range(6))
def test_whole_sweeps_are_learned_all_round(number):
    rng = np.random.default_rng(5)
    frame = replace(frame_with_a_car(rng, (-5.0, 1.0, -0.9, 4.0, 1.6, 1.5, 0.4)), surround=True)
    spec = replace(SPEC, x_min_m=-12.8)
    config = SampleConfig(window=WindowConfig(128, 128, around_a_car=1), augment=AugmentConfig(rotation_rad=np.pi))
    maker = SampleMaker(TrainingData([frame], [], []), spec, config, 5, count=6)
    grid, score, regression, _, _ = maker[number]
    # The same draws once more say where the car and the window are.
    rng = np.random.default_rng((5, number))
    points, boxes, counted, motion = augment(frame, [], config.augment, rng)
    row, col = maker._place(boxes[counted], rng)
    origin = (spec.x_min_m + row * spec.cell_m, spec.y_min_m + col * spec.cell_m)
    found, _ = decode(score, np.ascontiguousarray(regression.transpose(1, 2, 0)), origin, 0.4, 0.5, 100)
    assert len(found)
    assert number != 3 or abs(motion.angle_rad) > 1, "this one is turned far"
    np.testing.assert_allclose(np.cos(found[:, 6] - boxes[0, 6]), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, :6], np.tile(boxes[0, :6], (len(found), 1)), atol=1e-4)
    inside = points[points_in_box(points, boxes[0])]
    rows, cols = np.floor((inside[:, :2] - origin) / spec.cell_m).astype(int).T
    shown = (rows >= 0) & (rows < 128) & (cols >= 0) & (cols < 128)
    assert shown.any() and grid.any(2)[rows[shown], cols[shown]].all()


def write_simulated(folder, full):
    """One frame with a car ahead, one behind that has two points only, one behind, a van and a man."""
    root = folder / "training"
    for name in ("velodyne", "calib", "label_2"):
        (root / name).mkdir(parents=True)
    ahead = frame_with_a_car(np.random.default_rng(0))
    boxes = [ahead.boxes[0].tolist()] + [[x, 0.0, -0.9, 4.0, 1.6, 1.5, 3.0] for x in (-9.0, -20.0, -30.0, -40.0)]
    points = np.concatenate([ahead.points, car_points(np.random.default_rng(1), np.array(boxes[2]), 40)])
    points[:, 3] = 0.5
    points.tofile(root / "velodyne/000000.bin")
    write_object_calibration(root / "calib/000000.txt", ahead.calibration)
    (root / "label_2/000000.txt").write_text("Car 0 0 0 500 150 600 200 1.5 1.6 4.0 -1.0 1.65 6.0 -1.97\n")
    kinds, hits = ["Car", "Car", "Car", "Van", "Pedestrian"], [60, 2, 40, 9, 9]
    record = {"frame": "000000", "boxes": boxes, "labels": kinds, "hits": hits}
    record["world_from_lidar"] = np.eye(4).tolist()
    (root / "tracks.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "simulated.json").write_text(json.dumps({"full": full}))
    return boxes, points


def test_simulated_whole_sweeps_have_boxes_all_round(tmp_path):
    boxes, points = write_simulated(tmp_path, full=True)
    for folder in (tmp_path, tmp_path / "training"):
        (frame,) = load_simulated(folder)
        assert frame.surround and len(frame.labels) == 1
        np.testing.assert_array_equal(frame.points, points)
        np.testing.assert_array_equal(frame.boxes, np.array(boxes[:4], np.float32))
        assert frame.counted.tolist() == [True, False, True, False]


def test_simulated_front_views_are_read_as_recorded_ones(tmp_path):
    boxes, _ = write_simulated(tmp_path, full=False)
    (frame,), (recorded,) = load_simulated(tmp_path), load_frames(tmp_path)
    assert not frame.surround and frame.points[:, 0].min() > 0
    np.testing.assert_allclose(frame.boxes, np.array(boxes[:1]), atol=0.01)
    np.testing.assert_array_equal(frame.points, recorded.points)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("simulated.json", "{}", r"simulated.json: KeyError.*`roadblocks sample`"),
        ("training/tracks.jsonl", "{", r"tracks.jsonl, line 1: JSONDecodeError.*expected frame, boxes"),
        ("training/tracks.jsonl", '{"frame": "0", "boxes": [], "labels": ["Car"], "hits": []}', "line 1: .*labels"),
        ("training/tracks.jsonl", "", "tracks.jsonl: lacks frame 000000; simulate"),
    ],
)
def test_a_broken_simulated_folder_is_told(tmp_path, name, text, words):
    write_simulated(tmp_path, full=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=words):
        load_simulated(tmp_path)


def test_samples_repeat_by_number():
    rng = np.random.default_rng(1)
    frames = [frame_with_a_car(rng), frame_with_a_car(rng)]
    arguments = (TrainingData(frames, [], []), SPEC, SampleConfig(window=WINDOW), 5)
    whole, later = SampleMaker(*arguments, count=8), SampleMaker(*arguments, count=8, first=5)
    assert len(whole) == 8 and len(later) == 3
    for expected, found in zip(whole[6], later[1], strict=True):
        assert np.array_equal(expected, found)
    assert not np.array_equal(whole[6][0], whole[7][0])
    assert whole[0][0].shape == (64, 64, 23) and whole[0][1].shape == (16, 16) and whole[0][4].shape == (1, 4, 4)
    with pytest.raises(IndexError):
        whole[8]


def test_samples_take_every_frame_of_both_kinds_in_turn():
    real, simulated = (
        [replace(frame_with_a_car(np.random.default_rng(i)), id=f"{kind}{i}") for i in range(count)]
        for kind, count in (("real", 3), ("simulated", 2))
    )
    data = TrainingData(real, simulated, [])
    maker = SampleMaker(data, SPEC, SampleConfig(simulated_share=0.25, window=WINDOW), 0, count=16)
    names = [maker._frame(number).id for number in range(16)]
    assert sorted(names) == sorted(4 * ["real0", "real1", "real2"] + 2 * ["simulated0", "simulated1"])
    assert set(names[:4]) > {"real0", "real1", "real2"}
    alone = SampleMaker(replace(data, real=[]), SPEC, SampleConfig(window=WINDOW), 0, count=2)
    assert {alone._frame(number).id for number in range(2)} == {"simulated0", "simulated1"}


@pytest.mark.parametrize(
    "config, expected",
    [
        (ComputedConfig(everything=1), lambda tiles, around: tiles.all()),
        (ComputedConfig(everything=0, vehicles=1, margin_m=0, false_alarms=0), np.array_equal),
        (ComputedConfig(everything=0, vehicles=1, false_alarms=0), lambda tiles, around: tiles[around].all()),
        (ComputedConfig(everything=0, vehicles=0, margin_m=0), lambda tiles, around: tiles.sum() == 1 and tiles[7, 0]),
    ],
)
def test_drawn_tiles(config, expected):
    occupied = np.zeros((128, 128), bool)
    occupied[127, 3] = True
    box = np.array([[4.8, 3.2, -1, 4, 1.6, 1.5, 0]], np.float32)  # rows 28..68, columns 24..40 of 0.1 m
    around = np.zeros((8, 8), bool)
    around[1:5, 1:3] = True
    for seed in range(5):
        tiles = draw_tiles(occupied, box, (0.0, 0.0), 0.1, config, np.random.default_rng(seed))
        assert expected(tiles, around)


def test_augmented_cars_keep_their_points():
    rng = np.random.default_rng(2)
    frame = frame_with_a_car(rng)
    for _ in range(10):
        points, boxes, counted, motion = augment(frame, [], AugmentConfig(beam_dropout=0), rng)
        assert counted.tolist() == [True]
        assert points_in_box(points, boxes[0], 0.02).sum() >= 60
        assert np.allclose(motion.origin_of(*boxes[0, :2]), frame.boxes[0, :2], atol=1e-5)


def test_real_frames_load_with_their_labels(shared):
    frames = load_frames(shared / "kitti", shared / "kitti" / "ImageSets" / "val.txt")
    assert len(frames) == 58
    hits = [points_in_box(f.points, box).sum() for f in frames for box in f.boxes[f.counted]]
    assert len(hits) > 100 and np.median(hits) > 20
