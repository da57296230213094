"""Simulated drives: labels against brute force, rasters and tracks against their world, layouts that read back."""

import hashlib
import json
from dataclasses import replace

import numba
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detector.boxes import boxes_from_labels, points_in_box, wrap_angle
from detector.calibration import transform
from detector.cli import main
from detector.errors import LabelError
from detector.labels import read_labels
from detector.sources import open_sources
from models.grid import BevSpec
from tests.tools.simulated_scenes import actor_of, quiet_sensor, world_of
from tools.simulation.actors import Motion
from tools.simulation.drive import camera_calibration, half_view_rad, simulate_drive, simulate_frame
from tools.simulation.labels import (
    FAR_M,
    MIN_POINTS,
    MIN_POINTS_FAR,
    Objects,
    actor_boxes,
    find_objects,
    label_objects,
)
from tools.simulation.layouts import DATE, TRACKS_FILE, clear_layout
from tools.simulation.materials import Material
from tools.simulation.road_raster import FRONT, GRID_FILE, SURROUND, find_road, read_road
from tools.simulation.sensor import load_sensor
from tools.simulation.solids import Solids, box
from tools.simulation.surface import Ground
from tools.simulation.sweep import lateness_s, sweep
from tools.simulation.world import build_world

HDL64E = load_sensor("hdl64e")
SENSOR = quiet_sensor(np.arange(4, -10, -0.2), rays_per_turn=1440)  # 2 m above the ground


@pytest.fixture(scope="module")
def drive():
    """Three worlds, two frames of each."""
    return list(simulate_drive(6, 2, step_s=2.0, frames_per_world=2))


@pytest.fixture(scope="module")
def world():
    return build_world(4.0, np.random.default_rng(8))


def block(x, y, size, yaw=0.0, kind="Car"):
    """An actor that is nothing but its box."""
    actor = actor_of(box((0, 0, 0), size, Material.CONCRETE), Motion.standing(np.array([x, y, yaw])), size)
    return replace(actor, kind=kind)


def frame_of(actors, static=(), sensor=SENSOR, **more):
    actors = tuple(replace(actor, track_id=index) for index, actor in enumerate(actors))
    return simulate_frame(world_of(Solids.join(list(static)), actors), 0.0, np.random.default_rng(0), sensor, **more)


def projected(box_, calibration):
    """Left, top, right, bottom of a box's corners [pixels], by homogeneous matrices; None if any is behind."""
    turn = Rotation.from_euler("z", box_[6]).as_matrix()
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    corners = np.column_stack([signs * box_[3:6] / 2 @ turn.T + box_[:3], np.ones(8)])
    u, v, depth = calibration.image_from_camera @ calibration.camera_from_lidar @ corners.T
    if depth.min() < 0.5:
        return None
    return np.array([(u / depth).min(), (v / depth).min(), (u / depth).max(), (v / depth).max()])


def test_image_boxes_and_truncation_are_the_projected_corners(drive):
    checked = 0
    for found in drive:
        calibration, labels = found.frame.calibration, found.labels
        for index, labelled in enumerate(boxes_from_labels(labels, calibration)):
            # A label's box stands upright in the frame of the camera, an object's in that of the sensor.
            box_ = min(found.objects.boxes, key=lambda box_: np.linalg.norm(box_[:3] - labelled[:3]))
            np.testing.assert_allclose(labelled, box_, atol=1e-3)
            whole = projected(box_, calibration)
            if whole is None:
                continue
            seen = np.clip(whole, 0, [1241, 374, 1241, 374])
            np.testing.assert_allclose(labels.boxes_2d[index], seen, atol=1e-6)
            share = np.prod(seen[2:] - seen[:2]) / np.prod(whole[2:] - whole[:2])
            assert labels.truncated[index] == pytest.approx(1 - share, abs=0.006)
            checked += 1
    assert checked > 15


# A board, 6 m wide and 1.4 m high, across the view at 20 m. With no offset its middle is on the left edge of the image.
@pytest.mark.parametrize(("offset_m", "truncated"), [(-3.1, 0.0), (-1.5, 0.25), (0.0, 0.5), (1.5, 0.75), (3.1, None)])
def test_truncation_at_the_edge_of_the_image(offset_m, truncated):
    edge_m = (609.5593 + 44.85728 / 19.7) / 721.5377 * 19.7
    labels = frame_of([block(20.0, edge_m + offset_m, (0.05, 6.0, 1.4))]).labels
    assert labels.truncated.tolist() == ([] if truncated is None else [pytest.approx(truncated, abs=0.012)])


def visible_share(wall_m):
    """Of the beams that meet the front of a block 4 m wide and 2.5 m high at 18 m, those that pass above a wall."""
    turn = (np.arange(SENSOR.rays_per_turn) + 0.5) / SENSOR.rays_per_turn * 2 * np.pi - np.pi
    azimuth, elevation = np.meshgrid(turn[np.abs(turn) < 0.7], np.radians(SENSOR.elevation_deg))
    rise = np.tan(elevation) / np.cos(azimuth)
    on_front = (18 * np.abs(np.tan(azimuth)) < 2) & (2 + 18 * rise > 0) & (2 + 18 * rise < 2.5)
    above_wall = np.minimum(2 + 9.75 * rise, 2 + 10.25 * rise) > wall_m
    return (on_front & above_wall).sum() / on_front.sum()


@pytest.mark.parametrize(("wall_m", "level"), [(0.02, 0), (1.0, 0), (1.4, 1), (1.75, 2), (4.0, None)])
def test_occlusion_by_a_wall(wall_m, level):
    wall = box((10, 0, 0), (0.5, 12, wall_m), Material.BRICK)
    found = frame_of([block(20.0, 0.0, (4.0, 4.0, 2.5))], [wall])
    assert found.objects.visible == pytest.approx([visible_share(wall_m)], abs=0.01)
    assert found.labels.occluded.tolist() == ([] if level is None else [level])
    assert (found.objects.hits[0] == 0) == (level is None)


def test_lost_echoes_are_no_occlusion():
    actors = [block(20.0, 0.0, (4.0, 4.0, 2.5))]
    whole, lost = frame_of(actors), frame_of(actors, sensor=replace(SENSOR, lost_share=0.7))
    assert lost.objects.hits[0] < 0.4 * whole.objects.hits[0]
    assert lost.objects.visible.tolist() == [1.0] and lost.labels.occluded.tolist() == [0.0]


def test_all_kinds_are_labelled_with_their_sizes():
    sizes = {
        "Car": (4.0, 1.7, 1.5),
        "Van": (5.0, 1.9, 2.1),
        "Truck": (9.0, 2.6, 3.3),
        "Pedestrian": (0.7, 0.6, 1.8),
        "Cyclist": (1.8, 0.6, 1.75),
    }
    places = [(15.0, 6.0), (25.0, -9.0), (30.0, 3.0), (10.0, -4.0), (12.0, -1.0)]
    actors = [block(*place, size, 0.5, kind) for place, (kind, size) in zip(places, sizes.items(), strict=True)]
    found = frame_of(actors)
    assert found.labels.types == found.objects.kinds == tuple(sizes)
    boxes = boxes_from_labels(found.labels, found.frame.calibration)
    for box_, (x, y), size in zip(boxes, places, sizes.values(), strict=True):
        np.testing.assert_allclose(box_, [x, y, size[2] / 2 - 2.0, *size, 0.5], atol=1e-9)


@pytest.mark.parametrize(("range_m", "fewest"), [(FAR_M - 2, MIN_POINTS), (FAR_M + 2, MIN_POINTS_FAR)])
def test_what_is_far_needs_more_points_for_a_label(range_m, fewest):
    boxes = np.tile([range_m, 0.0, -1.0, 4.0, 1.7, 1.5, 0.0], (2, 1))
    objects = Objects(("Car", "Van"), np.arange(2), np.arange(2), boxes, np.array([fewest - 1, fewest]), np.ones(2))
    assert label_objects(objects, camera_calibration(HDL64E)).types == ("Van",)


def test_labels_hold_their_points(drive):
    share, levels = [], set()
    for found in drive:
        frame, objects = found.frame, found.objects
        assert 8_000 < len(frame) < 40_000, "about what the camera sees of a KITTI sweep"
        for box_, hits in zip(objects.boxes, objects.hits, strict=True):
            if hits >= MIN_POINTS:
                share.append(points_in_box(frame.points, box_, 0.2).sum() / hits)
        levels |= set(found.labels.occluded)
    # Beams that graze an edge give ranges between it and what is behind, and what moves is elsewhere within a turn.
    assert len(share) > 30 and np.median(share) >= 1 and np.mean(np.array(share) > 0.9) > 0.9
    assert levels == {0.0, 1.0, 2.0}


def test_whole_sweeps_hold_the_view_and_have_its_labels(world):
    crop, full = (simulate_frame(world, 1.0, np.random.default_rng(0), full=full) for full in (False, True))
    calibration = full.frame.calibration
    assert calibration.in_view(crop.frame.points).all() and (full.frame.points[:, 0] < -5).sum() > 10_000
    assert calibration.in_view(full.frame.points).sum() == pytest.approx(len(crop.frame), rel=0.02)
    np.testing.assert_array_equal(crop.objects.boxes, full.objects.boxes)
    assert crop.objects.track_ids.tolist() == full.objects.track_ids.tolist()
    behind = full.objects.boxes[:, 0] < -5
    assert full.objects.hits[behind].any() and not crop.objects.hits[behind].any()
    np.testing.assert_array_equal(full.road.kind[-FRONT.rows :], crop.road.kind)
    # Noise differs, and with it who is hit often enough.
    places = [set(map(tuple, found.labels.locations_m.round(3))) for found in (crop, full)]
    assert len(places[0] & places[1]) >= 0.8 * max(map(len, places)) > 0


def test_tracks_are_where_their_actors_are(world):
    seen = []
    for time_s in (0.0, 1.7, 4.0):
        found = simulate_frame(world, time_s, np.random.default_rng(0))
        objects = found.objects
        boxes = actor_boxes(HDL64E, world, time_s)[objects.index]
        place = transform(found.frame.pose, boxes)
        expected = np.array([world.actors[track].motion.at(time_s) for track in objects.track_ids])
        # The pose has a rotation where the world has a shear by the slope: 0.03² of 80 m.
        np.testing.assert_allclose(place[:, :2], expected[:, :2], atol=0.1)
        heading = found.frame.pose[:3, :3] @ np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), place[:, 0] * 0])
        np.testing.assert_allclose(wrap_angle(np.arctan2(heading[1], heading[0]) - expected[:, 2]), 0, atol=0.005)
        assert objects.kinds == tuple(world.actors[track].kind for track in objects.track_ids)
        seen.append(set(objects.track_ids.tolist()))
    assert len(seen[0] & seen[2]) > 5


@pytest.mark.parametrize("name", ["hdl64e", "hdl32e"])
def test_boxes_are_where_the_beam_met_them(world, name):
    """Behind, the ego is half a turn further on, or back."""
    sensor, moved_m, shares = load_sensor(name), [], []
    for time_s in (0.5, 2.0):
        found = sweep(sensor, world, time_s, np.random.default_rng(0))
        objects = find_objects(found, sensor, world, time_s)
        at_stamp = actor_boxes(sensor, world, time_s)[objects.index]
        late_s = lateness_s(sensor, np.arctan2(at_stamp[:, 1], at_stamp[:, 0]))
        rows = zip(objects.index, late_s, strict=True)
        met = np.array([actor_boxes(sensor, world, time_s + late)[index] for index, late in rows])
        np.testing.assert_allclose(objects.boxes[:, :3], met[:, :3], atol=0.05)
        np.testing.assert_allclose(wrap_angle(objects.boxes[:, 6] - met[:, 6]), 0, atol=0.005)
        moved_m += np.hypot(*(objects.boxes - at_stamp)[:, :2].T).tolist()
        for index, box_ in zip(objects.index, objects.boxes, strict=True):
            points = found.points[found.owner == index]
            if len(points) >= 100:
                shares.append(points_in_box(points, box_, 0.1).mean())
    assert max(moved_m) > 0.3 and len(shares) >= 3 and np.mean(np.array(shares) > 0.95) > 0.85


@pytest.mark.parametrize(
    "mounting", [{}, {"pitch_deg": 4.0, "roll_deg": -2.0, "yaw_deg": 25.0, "x_m": 0.9, "y_m": 0.3}]
)
def test_road_rasters_agree_with_the_points_and_the_surface(world, mounting):
    still = replace(world, ego=Motion.standing(world.ego.at(2.0)))
    sensor = quiet_sensor(HDL64E.elevation_deg, height_m=1.73, **mounting)
    swept = sweep(sensor, still, 0.0, np.random.default_rng(0))
    raster = find_road(sensor, still, 0.0, SURROUND)
    ground = swept.ground < len(Ground)
    cells = np.floor((swept.points[ground, :2] - [SURROUND.x_min_m, SURROUND.y_min_m]) / SURROUND.cell_m).astype(int)
    place = transform(swept.world_from_lidar, swept.points[ground])
    truths = swept.ground[ground], world.surface.kind_at(place[:, 0], place[:, 1])

    def agreement(step):
        row, col = (cells + step).T
        inside = (row >= 0) & (col >= 0) & (row < SURROUND.rows) & (col < SURROUND.cols)
        found = raster.kind[row[inside], col[inside]]
        return np.array([np.mean(found == truth[inside]) for truth in truths])

    # Cells of the raster and of the surface lie across each other: at borders they differ. A raster that is off by one
    # cell differs more.
    assert (agreement((0, 0)) > 0.975).all()
    assert all((agreement(step) < agreement((0, 0)) - 0.003).all() for step in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    assert len(np.unique(raster.kind)) >= 4 and 0.02 < raster.road.mean() < 0.8


mountings = st.fixed_dictionaries(
    {"x_m": st.floats(-1, 2), "y_m": st.floats(-1, 1), "height_m": st.floats(1, 3)}
    | {f"{axis}_deg": st.floats(-10, 10) for axis in ("roll", "pitch", "yaw")}
)


@settings(max_examples=30)
@given(mountings, st.integers(0, 1000))
def test_the_camera_stays_where_it_is_on_the_vehicle(mounting, seed):
    sensor = replace(HDL64E, **mounting)
    calibration = camera_calibration(sensor)
    # Points before the camera, in the frame of the vehicle, 1 to 60 m ahead.
    camera = np.random.default_rng(seed).uniform([-1, -1, 1], [1, 1, 60], (200, 3))
    camera[:, :2] *= camera[:, 2:]
    vehicle = np.column_stack([camera[:, 2] + 0.27, -camera[:, 0], 1.65 - camera[:, 1]])
    turn = Rotation.from_euler("xyz", [sensor.roll_deg, sensor.pitch_deg, sensor.yaw_deg], degrees=True)
    lidar = turn.inv().apply(vehicle - [sensor.x_m, sensor.y_m, sensor.height_m])
    np.testing.assert_allclose(calibration.to_camera(lidar), camera, atol=1e-9)
    seen = lidar[calibration.in_view(lidar)]
    assert (np.abs(np.arctan2(seen[:, 1], seen[:, 0])) <= half_view_rad(calibration) + 1e-9).all()


def digest(found):
    labels = (found.labels.types, *(column.tobytes() for column in (found.labels.boxes_2d, found.labels.locations_m)))
    return found.frame.points.tobytes(), found.frame.pose.tobytes(), found.road.kind.tobytes(), labels


def test_same_seed_same_bytes_for_any_thread_count_and_length(drive):
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = list(simulate_drive(3, 2, step_s=2.0, frames_per_world=2))
    finally:
        numba.set_num_threads(threads)
    assert [digest(found) for found in again] == [digest(found) for found in drive[:3]]
    assert digest(next(simulate_drive(1, 3)))[0] != digest(next(simulate_drive(1, 4)))[0]


def test_worlds_change_and_time_goes_on(drive):
    assert [found.world for found in drive] == [0, 0, 1, 1, 2, 2]
    assert [found.frame.id for found in drive] == [f"{number:06d}" for number in range(6)]
    assert [found.frame.stamp_ns for found in drive] == [number * 2_000_000_000 for number in range(6)]
    first, second, other = (drive[index].road.kind for index in (0, 1, 2))
    assert np.mean(first != other) > 0.05 and len({found.frame.points.tobytes() for found in drive}) == 6
    assert first.shape == second.shape == FRONT.shape[:2] == (352, 400)


def sample(*words):
    return CliRunner().invoke(main, ["sample", *map(str, words)])


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_tracks(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_truth(root, frame_id, record, expected):
    """Road and track record of a frame on disk are the simulated ones."""
    raster = read_road(root / "road" / f"{frame_id}.png")
    np.testing.assert_array_equal(raster.kind, expected.road.kind)
    assert raster.spec == expected.road.spec
    assert (record["frame"], record["world"], record["stamp_ns"]) == (frame_id, expected.world, expected.frame.stamp_ns)
    np.testing.assert_allclose(record["world_from_lidar"], expected.frame.pose, atol=1e-8)
    np.testing.assert_allclose(record["boxes"], expected.objects.boxes, atol=1e-4)
    assert record["labels"] == list(expected.objects.kinds) and record["hits"] == expected.objects.hits.tolist()
    assert record["track_ids"] == expected.objects.track_ids.tolist()
    np.testing.assert_allclose(record["visible"], expected.objects.visible, atol=1e-3)


def test_object_layout_reads_back(tmp_path):
    out = tmp_path / "drive"
    words = (out, "--frames", 2, "--seed", 3)
    assert sample(*words).exit_code == 0
    (source,) = open_sources([out])
    assert source.layout == "kitti object" and [file.id for file in source.frames] == ["000000", "000001"]
    assert (out / "ImageSets/val.txt").read_text().split() == ["000000", "000001"]
    records = read_tracks(out / "training" / TRACKS_FILE)
    for file, record, expected in zip(source.frames, records, simulate_drive(2, 3), strict=True):
        frame, labels = file.load(), read_labels(file.label_path)
        np.testing.assert_array_equal(frame.points, expected.frame.points)
        np.testing.assert_allclose(frame.calibration.camera_from_lidar, expected.frame.calibration.camera_from_lidar)
        assert labels.types == expected.labels.types and len(labels)
        np.testing.assert_allclose(labels.locations_m, expected.labels.locations_m, atol=1e-4)
        np.testing.assert_array_equal(labels.occluded, expected.labels.occluded)
        check_truth(out / "training", file.id, record, expected)

    again = sample(*words)
    assert again.exit_code == 2 and "--overwrite" in " ".join(again.stderr.split())
    before = hashes(out)
    assert len(before) == 2 * 4 + 4, "no temporary files are left"
    assert sample(*words, "--overwrite").exit_code == 0 and hashes(out) == before


def test_raw_layout_reads_back_and_replaces_another(tmp_path):
    lidar = {"elevation_deg": np.linspace(2, -20, 16).tolist(), "rays_per_turn": 600, "height_m": 2.4, "rate_hz": 20.0}
    (tmp_path / "lidar.yaml").write_text(yaml.safe_dump(lidar | {"pitch_deg": 3.0, "x_m": 0.5}))
    out = tmp_path / "drive"
    assert sample(out, "--frames", 1).exit_code == 0
    words = ("--layout", "raw", "--full", "--frames", 3, "--seed", 9, "--frames-per-world", 2)
    assert sample(out, *words, "--sensor", tmp_path / "lidar.yaml", "--overwrite").exit_code == 0
    assert {path.name for path in out.iterdir()} == {"simulated.json", DATE}
    sources = open_sources([out])
    assert [source.name for source in sources] == [f"{DATE}_drive_{number:04d}_sync" for number in (0, 1)]
    files = [(source, file) for source in sources for file in source.frames]
    assert [file.id for _, file in files] == ["0000000000", "0000000001", "0000000000"]
    records = [record for source in sources for record in read_tracks(source.path / TRACKS_FILE)]
    expected = simulate_drive(3, 9, load_sensor(tmp_path / "lidar.yaml"), full=True, frames_per_world=2)
    for (source, file), record, simulated in zip(files, records, expected, strict=True):
        frame, truth = file.load(), simulated.frame
        assert source.layout == "kitti raw" and frame.stamp_ns == truth.stamp_ns
        np.testing.assert_array_equal(frame.points, truth.points)
        for name in ("camera_from_lidar", "image_from_camera"):
            np.testing.assert_allclose(getattr(frame.calibration, name), getattr(truth.calibration, name), atol=1e-12)
        assert frame.calibration.image_size == truth.calibration.image_size
        assert simulated.road.spec == SURROUND
        check_truth(source.path, file.id, record, simulated)
    assert records[1]["stamp_ns"] == 50_000_000


def test_only_our_own_drives_are_replaced(tmp_path):
    (tmp_path / "training").mkdir()
    refused = sample(tmp_path, "--overwrite")
    assert refused.exit_code == 2 and "simulated.json" in refused.stderr and (tmp_path / "training").is_dir()
    unknown = sample(tmp_path / "new", "--sensor", "hdl65e")
    assert unknown.exit_code == 2 and "hdl64e" in unknown.stderr and not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", ["object", "raw"])
def test_overwriting_leaves_what_is_not_the_drive_s(tmp_path, layout):
    mine = [tmp_path / name for name in ("training/velodyne/mine.bin", "ImageSets/train.txt", f"{DATE}/notes.txt")]
    other = tmp_path / ("training/calib/000009.txt" if layout == "raw" else f"{DATE}/calib_cam_to_cam.txt")
    assert sample(tmp_path, "--frames", 1, "--layout", layout).exit_code == 0
    for path in (*mine, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    old = set(tmp_path.rglob("*.bin")) - {mine[0]}
    clear_layout(tmp_path, layout)
    assert all(path.is_file() for path in (*mine, other)) and old and not any(path.exists() for path in old)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_worlds_have_an_end(tmp_path):
    refused = sample(tmp_path / "new", "--frames", 10_000, "--frames-per-world", 700)
    assert refused.exit_code == 2 and "at most 601" in " ".join(refused.stderr.split())
    assert not (tmp_path / "new").exists()
    assert [found.world for found in simulate_drive(3, 1, step_s=40.0)] == [0, 0, 1]


def test_bad_rasters_are_told(tmp_path, drive):
    with pytest.raises(LabelError, match=r"grid\.json beside it"):
        read_road(tmp_path / "0.png")
    out = tmp_path / "drive"
    assert sample(out, "--frames", 1).exit_code == 0
    grid = out / "training" / "road" / GRID_FILE
    written = json.loads(grid.read_text())
    assert written["kinds"] == {kind.name.lower(): int(kind) for kind in Ground}
    assert BevSpec.from_dict(written["grid"]) == FRONT
    grid.write_text(json.dumps(written | {"grid": SURROUND.to_dict()}))
    with pytest.raises(LabelError, match=r"\(352, 400\), expected uint8 of shape \(704, 400\)"):
        read_road(grid.with_name("000000.png"))
