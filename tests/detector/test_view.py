"""Pictures: right places, right colours."""

import numpy as np
import pytest
from PIL import Image

from detector import view
from detector.calibration import Calibration
from detector.sinks import save_picture
from detector.types import Detections, Frame
from kernels.tiles import ActiveTiles, TileSpec
from models.grid import BevSpec

SPEC = BevSpec()
CAR = (30.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.5)
AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CALIBRATION = Calibration(AXES, np.array([[700, 0, 620, 0], [0, 700, 180, 0], [0, 0, 1, 0.0]]))


def frame_of(*points, calibration=None):
    return Frame(np.array(points, np.float32).reshape(-1, 4), "000042", calibration=calibration)


def detections(*boxes, scores=None):
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    return Detections(np.array(boxes, np.float32).reshape(-1, 7), np.array(scores, np.float32), ("Car",) * len(boxes))


def pixels_like(picture, colour, tolerance=40):
    return np.argwhere(np.abs(np.asarray(picture).astype(int) - colour).max(axis=2) < tolerance)


def place(x_m, y_m):
    """Row and column of a point of the map in the finished picture."""
    ((right, down),) = view.Canvas.of(SPEC).pixels(np.array([[x_m, y_m]])) / view.SUPERSAMPLE
    return down + view.HEADER, right


def test_forward_is_up_and_left_is_left():
    ahead, behind, left = place(60, 0), place(5, 0), place(30, 20)
    assert ahead[0] < behind[0] and left[1] < ahead[1]
    assert place(70.4, 40) == (view.HEADER, 0)


def test_a_point_lights_its_pixel():
    row, col = (round(value) for value in place(40, -12.3))
    dark = np.asarray(view.render_bev(frame_of(), Detections.empty(), SPEC)).astype(int)
    lit = np.asarray(view.render_bev(frame_of([40, -12.3, 0.4, 1.0]), Detections.empty(), SPEC)).astype(int)
    changed = np.argwhere(np.abs(lit - dark).max(axis=2) > 60)
    assert len(changed) and np.abs(changed - [row, col]).max() <= 2


def test_a_box_is_drawn_around_its_place_in_the_colour_of_its_fate():
    row, col = place(30, 10)
    for labels, colour in (
        (None, view.FOUND),
        (np.array([CAR]), view.RIGHT),
        (np.zeros((0, 7)), view.FALSE_ALARM),
    ):
        picture = view.render_bev(frame_of(), detections(CAR), SPEC, labels=labels)
        drawn = pixels_like(picture.crop((0, view.HEADER, 1000, 900)), colour) + np.array([view.HEADER, 0])
        near = drawn[np.abs(drawn - [row, col]).max(axis=1) < 45]
        assert len(near) > 40, colour
    missed = view.render_bev(frame_of(), Detections.empty(), SPEC, labels=np.array([CAR]))
    assert len(pixels_like(missed.crop((0, view.HEADER, 1000, 900)), view.MISSED)) > 40


def test_matching_by_hand():
    far = (60.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.5)
    found = detections(CAR, CAR, far)
    right, missed = view.match_labels(found, np.array([CAR, (5.0, 0, -1, 4, 2, 1.5, 0)]))
    assert right.tolist() == [True, False, False], "the second hit on one label is a false alarm"
    assert missed.tolist() == [False, True]
    right, missed = view.match_labels(Detections.empty(), np.array([CAR]))
    assert right.shape == (0,) and missed.tolist() == [True]


def test_low_scores_are_left_out():
    shown = view.render_bev(frame_of(), detections(CAR, scores=[0.2]), SPEC, display_score=0.3)
    empty = view.render_bev(frame_of(), Detections.empty(), SPEC, display_score=0.3)
    assert np.array_equal(np.asarray(shown), np.asarray(empty))


def test_inactive_tiles_are_dimmed():
    spec = TileSpec.covering((704, 800), 16)
    points = np.array([[x, y, 0, 1] for x in np.arange(2, 70, 0.5) for y in np.arange(-39, 39, 0.5)], np.float32)
    some = ActiveTiles(np.array([[0, 20, 20]], np.int32), spec)  # x 32..33.6 m, y -8..-6.4 m
    plain = np.asarray(view.render_bev(frame_of(points), Detections.empty(), SPEC)).astype(int)
    tiled = np.asarray(view.render_bev(frame_of(points), Detections.empty(), SPEC, tiles=some)).astype(int)
    row, col = (round(value) for value in place(32.8, -7.2))
    inside = np.s_[row - 5 : row + 5, col - 5 : col + 5]
    assert np.array_equal(plain[inside], tiled[inside])
    row, col = (round(value) for value in place(50, 10))
    outside = np.s_[row - 9 : row + 9, col - 9 : col + 9]
    assert tiled[outside].sum() < 0.6 * plain[outside].sum()
    everything = view.render_bev(frame_of(points), Detections.empty(), SPEC, tiles=ActiveTiles.all(spec))
    assert np.array_equal(np.asarray(everything), plain)


def test_camera_panel_shows_the_box_where_it_projects():
    image = Image.new("RGB", (1242, 375), (20, 20, 20))
    box = np.array([[20.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]])
    panel = view.draw_camera(image, box, [view.RIGHT], CALIBRATION, 1242)
    drawn = pixels_like(panel, view.RIGHT, 80)
    # The rear face is 18 m ahead: 700 / 18 pixels a metre around (620, 180).
    assert drawn[:, 1].min() == pytest.approx(620 - 700 / 18, abs=3)
    assert drawn[:, 0].max() == pytest.approx(180 + 0.75 * 700 / 18, abs=3)
    both = view.render_bev(frame_of(calibration=CALIBRATION), detections(), SPEC, camera_image=image)
    alone = view.render_bev(frame_of(calibration=CALIBRATION), detections(), SPEC)
    assert both.height == alone.height + round(375 * 1000 / 1242)


def test_other_grids_and_saving(tmp_path):
    around = BevSpec(x_min_m=-70.4)
    picture = view.render_bev(frame_of([-20, 3, 0, 0.5]), detections(CAR), around, stage_ms={"load": 1.5})
    assert picture.height > picture.width / 2
    save_picture(tmp_path / "a.png", picture)
    assert Image.open(tmp_path / "a.png").size == picture.size
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
