"""Pictures: right places, right colours, nothing on top of anything else."""

import numpy as np
import pytest
from PIL import Image

from detector import canvas, view
from detector.boxes import box_corners
from detector.calibration import Calibration
from detector.canvas import Canvas
from detector.sinks import save_picture
from detector.types import Detections, Frame
from kernels.tiles import ActiveTiles, TileSpec
from models.grid import BevSpec

SPEC = BevSpec()
AROUND = BevSpec(x_min_m=-70.4)
CAR = (30.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.5)
AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CALIBRATION = Calibration(AXES, np.array([[700, 0, 620, 0], [0, 700, 180, 0], [0, 0, 1, 0.0]]))
NONE = np.zeros((0, 7))


def frame_of(*points, calibration=None):
    return Frame(np.array(points, np.float32).reshape(-1, 4), "000042", calibration=calibration)


def detections(*boxes, scores=None):
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    return Detections(np.array(boxes, np.float32).reshape(-1, 7), np.array(scores, np.float32), ("Car",) * len(boxes))


def map_of(picture, spec=SPEC):
    """The map part of a picture without camera panel, (height, width, 3) int."""
    width, height = Canvas.of(spec).size
    left = (picture.width - width) // 2
    return np.asarray(picture).astype(int)[view.HEADER : view.HEADER + height, left : left + width]


def drawn_in(image, colour, tolerance=60):
    """(N, 2) row, column of the pixels about as bright and of the hue of ``colour``."""
    return np.argwhere(np.abs(np.asarray(image).astype(int) - colour).max(axis=2) < tolerance)


def pixel(x_m, y_m, spec=SPEC):
    """Row and column on the map."""
    ((right, down),) = Canvas.of(spec).pixels(np.array([[x_m, y_m]]))
    return np.array([down, right])


def test_forward_is_up_and_left_is_left():
    assert pixel(60, 0)[0] < pixel(5, 0)[0], "what is farther ahead is higher up"
    assert pixel(30, 20)[1] < pixel(30, 0)[1], "positive y is on the left"
    assert pixel(70.4, 40).tolist() == [0, 0]
    width, height = Canvas.of(SPEC).size
    assert pixel(0, 0).tolist() == pytest.approx([height, width / 2]), "the sensor is at the bottom, in the middle"


@pytest.mark.parametrize(
    ("spec", "x_m", "y_m"), [(SPEC, 40, -12.3), (SPEC, 3, 0.7), (AROUND, -55.5, 20), (AROUND, 60, -30)]
)
def test_a_point_lights_its_pixel(spec, x_m, y_m):
    dark = map_of(view.render_bev(frame_of(), Detections.empty(), spec), spec)
    lit = map_of(view.render_bev(frame_of([x_m, y_m, 0.4, 1.0]), Detections.empty(), spec), spec)
    changed = np.argwhere(np.abs(lit - dark).max(axis=2) > 60)
    assert len(changed) and np.abs(changed - pixel(x_m, y_m, spec)).max() <= 2


def test_higher_points_are_lighter_and_dimmer_where_they_reflect_less():
    points = [[20, 0, -2, 1], [30, 0, -1, 1], [40, 0, 0.5, 1], [50, 0, 0.5, 0]]
    image = map_of(view.render_bev(frame_of(*points), Detections.empty(), SPEC))
    low, middle, high, dull = (image[tuple(pixel(x_m, 0).astype(int))].sum() for x_m, *_ in points)
    assert low < middle < high
    assert dull < 0.8 * high


def test_what_is_higher_hides_what_is_below():
    high, low = [40, 0, 0.5, 1], [40, 0, -2, 1]
    alone = map_of(view.render_bev(frame_of(high), Detections.empty(), SPEC))
    for points in ([high, low], [low, high]):
        assert np.array_equal(map_of(view.render_bev(frame_of(*points), Detections.empty(), SPEC)), alone)


def test_points_outside_of_the_map_and_not_numbers_are_left_out():
    outside = [[70.5, 0, 0, 1], [-0.1, 0, 0, 1], [30, 40.1, 0, 1], [1e30, 0, 0, 1]] * 10
    outside += [[np.nan, 0, 0, 1], [np.inf, 0, 0, 1]]
    some = map_of(view.render_bev(frame_of(*outside), Detections.empty(), SPEC))
    assert np.array_equal(some, map_of(view.render_bev(frame_of(), Detections.empty(), SPEC)))


@pytest.mark.parametrize("spec", [SPEC, AROUND])
def test_a_box_is_drawn_through_its_corners(spec):
    image = map_of(view.render_bev(frame_of(), detections(CAR), spec), spec)
    drawn = drawn_in(image, view.DETECTION.colour)
    for x_m, y_m, _ in box_corners(np.array([CAR]))[0, :4]:
        assert np.hypot(*(drawn - pixel(x_m, y_m, spec)).T).min() < 2, "an outline without this corner"
    rear = drawn - pixel(30 - 2.8 * np.cos(0.5), 10 - 2.8 * np.sin(0.5), spec)
    front = drawn - pixel(30 + 2.6 * np.cos(0.5), 10 + 2.6 * np.sin(0.5), spec)
    assert np.hypot(*front.T).min() < 2 < np.hypot(*rear.T).min(), "the heading tick is at the front"


@pytest.mark.parametrize(
    ("boxes", "labels", "ignored", "style"),
    [
        ([CAR], None, None, view.DETECTION),
        ([CAR], [CAR], None, view.FOUND),
        ([CAR], [CAR], [CAR], view.FOUND),
        ([CAR], NONE, None, view.FALSE_ALARM),
        ([CAR], NONE, [CAR], view.IGNORED),
        ([], [CAR], None, view.MISSED),
        ([], NONE, [CAR], view.IGNORED_LABEL),
    ],
)
def test_colours_tell_the_fate(boxes, labels, ignored, style):
    labels, ignored = (None if given is None else np.array(given) for given in (labels, ignored))
    picture = view.render_bev(frame_of(), detections(*boxes), SPEC, labels=labels, ignored_labels=ignored)
    drawn = {
        other: len(drawn_in(map_of(picture), other.colour, 40))
        for other in (view.FOUND, view.FALSE_ALARM, view.MISSED, view.IGNORED)
    }
    expected = next(other for other in drawn if other.colour == style.colour)
    assert drawn.pop(expected) > 60
    # A grey line averages with the background and the guides, so only colours prove their absence.
    assert max(count for other, count in drawn.items() if other is not view.IGNORED) == 0


def test_labels_are_dashed():
    ahead = (30.0, 10.0, -1.0, 10.0, 4.0, 1.5, 0.0)
    top, bottom = pixel(35, 12).astype(int), pixel(25, 12).astype(int)
    for found, style, least, most in (([ahead], view.DETECTION, 1, 1), ([], view.MISSED, 0.4, 0.8)):
        labels = None if found else np.array([ahead])
        image = map_of(view.render_bev(frame_of(), detections(*found), SPEC, labels=labels))
        side = image[top[0] : bottom[0], top[1] - 2 : top[1] + 3]
        lit = (np.abs(side - style.colour).max(axis=2) < 60).any(axis=1)
        assert least <= lit.mean() <= most and lit[:2].any() and lit[-2:].any(), "or corners are open"


def test_matching_by_hand():
    far = (60.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.5)
    near = detections(CAR, CAR, far)
    found, missed = view.match_labels(near, np.array([CAR, (5.0, 0, -1, 4, 2, 1.5, 0)]))
    assert found.tolist() == [True, False, False], "the second on one label is a false alarm"
    assert missed.tolist() == [False, True]
    found, missed = view.match_labels(Detections.empty(), np.array([CAR]))
    assert found.shape == (0,) and missed.tolist() == [True]
    # Shifted along by s, a rectangle of length 4 overlaps itself with IoU (4 - s) / (4 + s).
    for shift, enough in ((1.3, True), (1.4, False)):
        shifted = (30 + shift * np.cos(0.5), 10 + shift * np.sin(0.5), *CAR[2:])
        assert view.match_labels(detections(shifted), np.array([CAR]))[0].tolist() == [enough]


def test_low_scores_are_left_out_and_their_labels_missed():
    shown = view.render_bev(frame_of(), detections(CAR, scores=[0.2]), SPEC, display_score=0.3)
    empty = view.render_bev(frame_of(), Detections.empty(), SPEC, display_score=0.3)
    assert np.array_equal(np.asarray(shown), np.asarray(empty))
    labelled = view.render_bev(frame_of(), detections(CAR, scores=[0.2]), SPEC, labels=np.array([CAR]))
    assert len(drawn_in(map_of(labelled), view.MISSED.colour)) > 60


def test_scores_find_a_free_place():
    box, taken = (100.0, 100.0, 120.0, 150.0), [(100.0, 100.0, 120.0, 150.0)]
    right = view._free_place(box, 26, 13, taken, (500, 500))
    assert right[0] > box[2] and right[2] - right[0] == 26
    neighbour = (121.0, 90.0, 150.0, 160.0)
    left = view._free_place(box, 26, 13, [*taken, neighbour], (500, 500))
    assert left[2] < box[0]
    at_the_edge = view._free_place(box, 26, 13, [*taken, (60.0, 90.0, 99.0, 160.0)], (125, 500))
    assert at_the_edge[2] <= 125 and (at_the_edge[3] < box[1] or at_the_edge[1] > box[3])


def test_inactive_tiles_are_dimmed():
    spec = TileSpec.covering((704, 800), 16)
    points = np.array([[x, y, 0, 1] for x in np.arange(2, 70, 0.5) for y in np.arange(-39, 39, 0.5)], np.float32)
    some = ActiveTiles(np.array([[0, 20, 20]], np.int32), spec)  # x 32..33.6 m, y -8..-6.4 m
    plain = map_of(view.render_bev(frame_of(points), Detections.empty(), SPEC))
    tiled = map_of(view.render_bev(frame_of(points), Detections.empty(), SPEC, tiles=some))
    for x_m, y_m, is_active in (
        (32.4, -7.6, True),
        (33.2, -6.8, True),
        (31.4, -7, False),
        (32.8, -5.8, False),
        (50, 10, False),
    ):
        row, col = pixel(x_m, y_m).astype(int)
        around = np.s_[row - 4 : row + 5, col - 4 : col + 5]
        bright = tiled[around].max() / plain[around].max()
        assert bright == pytest.approx(1 if is_active else canvas.INACTIVE_BRIGHTNESS, abs=0.05), (x_m, y_m)


def test_active_tiles_are_outlined():
    one = ActiveTiles(np.array([[0, 20, 20]], np.int32), TileSpec.covering((704, 800), 16))
    plain = map_of(view.render_bev(frame_of(), Detections.empty(), SPEC))
    tiled = map_of(view.render_bev(frame_of(), Detections.empty(), SPEC, tiles=one))
    inside = np.array(canvas.ACTIVE) - canvas.BACKGROUND
    outline = np.argwhere((tiled - plain)[..., 2] > inside[2] + 5)
    assert np.abs(outline.min(axis=0) - pixel(33.6, -6.4)).max() <= 2
    assert np.abs(outline.max(axis=0) - pixel(32.0, -8.0)).max() <= 2
    assert (tiled - plain)[tuple(pixel(32.8, -7.2).astype(int))].tolist() == inside.tolist()


def test_tiles_may_overlap_and_stick_out_and_all_of_them_change_nothing_on_the_map():
    points = [[1, 39, 0, 1], [69, -39, 0, 1]]
    spec = TileSpec((18, 18), (16, 16), (-1, -1), (44, 50))
    plain = map_of(view.render_bev(frame_of(*points), Detections.empty(), SPEC))
    everything = view.render_bev(frame_of(*points), Detections.empty(), SPEC, tiles=ActiveTiles.all(spec))
    assert np.array_equal(map_of(everything), plain)
    corner = ActiveTiles(np.array([[0, 0, 49]], np.int32), spec)  # x 0..1.7 m, y 38.3..40 m
    image = map_of(view.render_bev(frame_of(*points), Detections.empty(), SPEC, tiles=corner))
    lit, dimmed = (image[tuple(pixel(x_m, y_m).astype(int))].sum() for x_m, y_m, *_ in points)
    assert dimmed < 0.6 * lit
    nothing = ActiveTiles(np.zeros((0, 3), np.int32), spec)
    assert map_of(view.render_bev(frame_of(), Detections.empty(), SPEC, tiles=nothing)).max() < 160


@pytest.mark.parametrize("baseline_m", [0.0, 5.0])
def test_edges_of_the_camera_view(baseline_m):
    projection = CALIBRATION.image_from_camera + np.array([[0, 0, 0, 700 * baseline_m], [0] * 4, [0] * 4])
    calibration = Calibration(AXES, projection)
    empty = map_of(view.render_bev(frame_of(), Detections.empty(), SPEC))
    seen = map_of(view.render_bev(frame_of(calibration=calibration), Detections.empty(), SPEC))
    changed = {tuple(place) for place in np.argwhere(np.abs(seen - empty).max(axis=2) > 8)}
    for column in (0, 1242):
        # u = 620 + 700 * (baseline - y) / x for a camera that looks along x.
        row, col = np.round(pixel(25.0, baseline_m - 25.0 * (column - 620) / 700)).astype(int)
        assert any((row, col + step) in changed for step in (-1, 0, 1)), f"no edge at image column {column}"


def test_camera_panel_shows_the_box_where_it_projects():
    image = Image.new("RGB", (1242, 375), (20, 20, 20))
    box = np.array([20.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0])
    panel = view.draw_camera(image, [view.Mark(box, view.FOUND, 0.9)], CALIBRATION)
    scale = canvas.MAP_WIDTH / 1242
    assert panel.size == (canvas.MAP_WIDTH, round(375 * scale))
    drawn = drawn_in(panel, view.FOUND.colour, 80)
    # The rear face is 18 m ahead: 700 / 18 pixels a metre around (620, 180).
    assert drawn[:, 1].min() == pytest.approx((620 - 700 / 18) * scale, abs=3)
    assert drawn[:, 0].max() == pytest.approx((180 + 0.75 * 700 / 18) * scale, abs=3)
    behind = np.array([-20.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0])
    for mark in (view.Mark(behind, view.FOUND, 0.9), view.Mark(box, view.LABEL)):
        assert np.asarray(view.draw_camera(image, [mark], CALIBRATION)).max() == 20, "only what was seen or missed"


def test_camera_panel_needs_a_calibration():
    image = Image.new("RGB", (1242, 375))
    alone = view.render_bev(frame_of(), detections(CAR), SPEC)
    assert view.render_bev(frame_of(), detections(CAR), SPEC, camera_image=image).size == alone.size
    both = view.render_bev(frame_of(calibration=CALIBRATION), detections(CAR), SPEC, camera_image=image)
    assert both.height == alone.height + round(375 * canvas.MAP_WIDTH / 1242)


def test_title_and_stage_times_are_written():
    plain, titled, timed = (
        np.asarray(view.render_bev(frame_of(), Detections.empty(), SPEC, **options)).astype(int)
        for options in ({}, {"title": "a drive"}, {"stage_ms": {"voxelize": 1.5, "write": 9.0}})
    )
    changed = [np.argwhere(np.abs(other - plain).max(axis=2) > 0)[:, 0] for other in (titled, timed)]
    assert 0 < changed[0].max() < view.HEADER
    assert changed[1].min() >= len(plain) - view.FOOTER


@pytest.mark.parametrize(
    "spec", [AROUND, BevSpec(y_min_m=20.0), BevSpec(x_min_m=10.0, x_max_m=20.0), BevSpec(y_min_m=-10, y_max_m=10)]
)
def test_other_grids(spec):
    picture = view.render_bev(frame_of([15, 3, 0, 0.5]), detections(CAR), spec, labels=np.array([CAR]))
    width, height = Canvas.of(spec).size
    assert picture.size == (canvas.MAP_WIDTH, view.HEADER + height + view.FOOTER)
    assert width <= canvas.MAP_WIDTH and height <= canvas.MAP_HEIGHT
    assert width / height == pytest.approx(spec.cols / spec.rows, rel=0.01)


def test_a_picture_is_saved_whole(tmp_path):
    picture = view.render_bev(frame_of([20, 3, 0, 0.5]), detections(CAR), SPEC)
    save_picture(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(picture))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
