"""The simulator: rays against closed forms, labels against points, same seed same bytes."""

import numba
import numpy as np
import pytest
from click.testing import CliRunner

from detector.boxes import boxes_from_labels, points_in_box
from detector.calibration import transform
from detector.cli import main
from detector.labels import read_labels
from detector.sources import open_sources
from kernels.rotated_iou import rotated_iou_reference
from tools.simulate import CALIBRATION, simulate_drive, simulate_frame
from tools.simulation.raycast import GROUND, NOTHING, cast, count_unoccluded, sort_into_sectors
from tools.simulation.sensor import HDL_64E, Sensor, azimuths, sweep
from tools.simulation.solids import Solids, box, crown, cylinder, frustum
from tools.simulation.street import Street, build_street
from tools.simulation.vehicles import SIZES_M, make_vehicle, random_size

LEVEL = np.zeros(1)
FAR_GROUND = -1000.0


def range_along(solids, azimuth_rad, elevation_rad=0.0, depth=0.0):
    ranges, hits, _ = cast(solids, FAR_GROUND, np.array([elevation_rad]), np.array([azimuth_rad]), np.array([[depth]]))
    return ranges[0, 0], hits[0, 0]


@pytest.mark.parametrize("turn", [0.0, 0.7, np.pi / 2, 3.0, -2.2])
def test_rays_meet_solids_where_geometry_says(turn):
    def around(solid):
        return Solids.join([solid.placed(np.zeros(3), turn)])

    assert range_along(around(box((10, 0, -1), (4, 2, 2), 0.5)), turn)[0] == pytest.approx(8)
    assert range_along(around(cylinder((10, 0, -1), 0.5, 2, 0.5)), turn)[0] == pytest.approx(9.5)
    assert range_along(around(cylinder((10, 0, 1), 0.5, 2, 0.5)), turn)[0] == np.inf
    assert range_along(around(crown((10, 0, 0), 3, 2, 0.5)), turn)[0] == pytest.approx(7)
    assert range_along(around(crown((10, 0, 0), 3, 2, 0.5)), turn, depth=0.5)[0] == pytest.approx(10)
    # A windscreen: 4 m long below, 2 m above, 2 m high; at half height its front is at 10 - 1.5.
    assert range_along(around(frustum((10, 0, -1), (4, 2), (2, 2), 2, 0.5)), turn)[0] == pytest.approx(8.5)
    # Shifted forward by 0.5 m: the rear, which the ray meets, leans more: 10 - 2 + (1 + 0.5) / 2.
    assert range_along(around(frustum((10, 0, -1), (4, 2), (2, 2), 2, 0.5, shift_m=0.5)), turn)[0] == pytest.approx(
        8.75
    )


def test_ground_sky_and_nearest_win():
    elevation = np.array([-0.1, 0.1])
    solids = Solids.join([box((30, 0, -2), (1, 9, 4), 0.5), box((20, 0, -2), (1, 9, 1), 0.5)])
    ranges, hits, cosine = cast(solids, -1.73, elevation, np.array([0.0, 2.0]), np.zeros((2, 2)))
    assert hits.tolist() == [[GROUND, GROUND], [NOTHING, NOTHING]]
    np.testing.assert_allclose(ranges[0], 1.73 / np.sin(0.1))
    np.testing.assert_allclose(cosine[0], np.sin(0.1))
    assert range_along(solids, 0.0, -0.06)[1] == 1 and range_along(solids, 0.0, 0.0)[1] == 0


def slab_range(base, size, yaw, azimuth):
    """Where level rays from the origin enter a turned box, by the slab method; inf where they miss it."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    origin = np.array([-cos * base[0] - sin * base[1], sin * base[0] - cos * base[1]])
    ray = np.stack([np.cos(azimuth - yaw), np.sin(azimuth - yaw)])
    half = np.array(size[:2]) / 2
    sides = (np.stack([-half, half]) - origin)[:, :, None] / ray
    enter, leave = sides.min(axis=0).max(axis=0), sides.max(axis=0).min(axis=0)
    level = base[2] < 0 < base[2] + size[2]
    return np.where((enter < leave) & (enter > 0) & level, enter, np.inf)


def test_sectors_lose_no_solid():
    rng = np.random.default_rng(0)
    given = [((*rng.uniform(-30, 30, 2), -1.0), tuple(rng.uniform(0.2, 8, 3)), rng.uniform(-3, 3)) for _ in range(60)]
    solids = Solids.join([box(base, size, 0.5, yaw) for base, size, yaw in given])
    azimuth = azimuths(HDL_64E)[::7]
    ranges, hits, _ = cast(solids, FAR_GROUND, LEVEL, azimuth, np.zeros((1, len(azimuth))))
    expected = np.array([slab_range(*solid, azimuth) for solid in given])
    nearest = expected.min(axis=0)
    sky = np.isinf(nearest)
    assert 20 < sky.sum() < len(azimuth) - 100
    np.testing.assert_allclose(ranges[0, ~sky], nearest[~sky], rtol=1e-9)
    assert (hits[0, ~sky] == expected.argmin(axis=0)[~sky]).all() and (hits[0, sky] == NOTHING).all()
    # Every solid is in the sector of its own middle.
    starts, members = sort_into_sectors(solids)
    for index, (x, y, _) in enumerate(solids.base):
        sector = int((np.arctan2(y, x) + np.pi) / (2 * np.pi) * 720) % 720
        assert index in members[starts[sector] : starts[sector + 1]]


def test_sloping_ground_carries_what_stands_on_it():
    quiet = Sensor(HDL_64E.elevation_rad, azimuth_steps=360, range_noise_m=0.0, lost_at_70_m=0.0)
    grade = np.array([0.03, -0.05])
    table = box((12, 1, -1.73), (4, 3, 0.8), 0.5)
    points, _, _ = sweep(quiet, table, azimuths(quiet, 0.6), np.random.default_rng(0), grade)
    height = points[:, 2] + 1.73 - points[:, :2] @ grade
    beside = (np.abs(points[:, 0] - 12) > 2.01) | (np.abs(points[:, 1] - 1) > 1.51)
    assert beside.sum() > 300 and (height > 0.79).sum() > 5
    np.testing.assert_allclose(height[beside], 0, atol=1e-5)
    assert height.min() > -1e-5 and height.max() < 0.8 + 1e-5


def test_points_lie_on_what_was_hit():
    quiet = Sensor(HDL_64E.elevation_rad, azimuth_steps=360, range_noise_m=0.0, lost_at_70_m=0.0)
    wall = Solids.join([box((15.5, 0, -1.73), (1, 40, 6), 0.5)])
    points, owner, _ = sweep(quiet, wall, azimuths(quiet, 0.5), np.random.default_rng(0))
    on_wall = points[:, 0] > 14.999
    assert on_wall.sum() > 1000 and (~on_wall).sum() > 300 and (owner == -1).all()
    np.testing.assert_allclose(points[on_wall, 0], 15, atol=1e-5)
    np.testing.assert_allclose(points[~on_wall, 2], -1.73, atol=1e-5)
    assert points[:, 3].min() >= 0 and points[:, 3].max() < 1


def test_same_seed_same_bytes_for_any_thread_count():
    frames = [frame.points for frame, _ in simulate_drive(2, 11)]
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = [frame.points for frame, _ in simulate_drive(2, 11)]
    finally:
        numba.set_num_threads(threads)
    other = next(simulate_drive(1, 12))[0].points
    assert all(a.tobytes() == b.tobytes() for a, b in zip(frames, again, strict=True))
    assert frames[0].tobytes() != other.tobytes() and frames[0].tobytes() != frames[1].tobytes()


def test_labels_hold_their_points_and_levels_are_mixed():
    levels, counts = set(), []
    for seed in range(4):
        for frame, labels in simulate_drive(2, seed):
            assert 5_000 < len(frame) < 30_000, "about what the camera sees of a KITTI sweep"
            for box_, occluded in zip(boxes_from_labels(labels, CALIBRATION), labels.occluded, strict=True):
                counts.append(points_in_box(frame.points, box_, 0.1).sum())
                levels.add(occluded)
                # Labels are in the LiDAR's frame, which the pose levels: there the road is at height 0.
                bottom = transform(frame.pose, (box_[:3] - [0, 0, box_[5] / 2])[None])[0, 2]
                assert bottom == pytest.approx(0, abs=2e-3), "wheels on the road"
            assert ((labels.truncated >= 0) & (labels.truncated <= 1)).all()
    assert min(counts) >= 5 and len(counts) > 40 and levels == {0.0, 1.0, 2.0}


def occlusion_scene(wall_height):
    rng = np.random.default_rng(0)
    car = make_vehicle("Car", (20.0, 0.0), 0.0, rng)
    return Street(box((10, 0, 0), (0.5, 9, wall_height), 0.5), (car,), 0.0, 0.0)


@pytest.mark.parametrize(("wall_height", "expected"), [(0.01, [0.0]), (1.1, [1.0, 2.0]), (4.0, [])])
def test_occlusion_by_a_wall(wall_height, expected):
    _, labels = simulate_frame(occlusion_scene(wall_height), 0, np.random.default_rng(1))
    found = labels.occluded.tolist()
    assert (found == expected) if not expected else (len(found) == 1 and found[0] in expected)


def test_lost_echoes_are_no_occlusion():
    blind = Sensor(HDL_64E.elevation_rad, lost_at_70_m=4.0)
    street = Street(box((200, 0, 0), (1, 1, 1), 0.5), occlusion_scene(1).vehicles, 0.0, 0.0)
    frame, labels = simulate_frame(street, 0, np.random.default_rng(1), blind)
    whole, _ = simulate_frame(street, 0, np.random.default_rng(1))
    (box_,) = boxes_from_labels(labels, CALIBRATION)
    lost = points_in_box(frame.points, box_, 0.1).sum() / points_in_box(whole.points, box_, 0.1).sum()
    assert lost < 0.6 and labels.occluded.tolist() == [0.0]


def test_whole_sweeps_hold_the_view_and_have_its_boxes():
    crop, labels = next(simulate_drive(1, 5))
    full, full_labels = next(simulate_drive(1, 5, full=True))
    assert CALIBRATION.in_view(crop.points).all() and (full.points[:, 0] < -5).sum() > 10_000
    assert CALIBRATION.in_view(full.points).sum() == pytest.approx(len(crop), rel=0.02)
    common = set(map(tuple, labels.locations_m.round(3))) & set(map(tuple, full_labels.locations_m.round(3)))
    # Noise differs, and with it who is hit often enough; everything else is the same scene.
    assert len(common) >= 0.7 * max(len(labels), len(full_labels)) > 0


def test_unoccluded_count_ignores_the_wall():
    car = make_vehicle("Car", (20.0, 0.0), 0.0, np.random.default_rng(0)).solids.placed(
        np.array([20, 0, -1.73]), 0.0, 0
    )
    wall = box((10, 0, -1.73), (0.5, 9, 4), 0.5)
    beams = HDL_64E.elevation_rad, azimuths(HDL_64E, 0.3)
    alone = count_unoccluded(car, 1, *beams)
    assert alone[0] > 200
    assert count_unoccluded(Solids.join([wall, car]), 1, *beams)[0] == alone[0]


def test_sizes_follow_kitti():
    rng = np.random.default_rng(0)
    sizes = np.array([random_size("Car", rng) for _ in range(2000)])
    np.testing.assert_allclose(sizes.mean(axis=0), SIZES_M["Car"][0], atol=0.03)
    assert (sizes > 1).all() and np.corrcoef(sizes[:, 0], sizes[:, 1])[0, 1] > 0.3


def test_a_drive_moves():
    street = build_street(3.0, np.random.default_rng(4))
    assert street.ego_speed_mps > 0 and any(vehicle.speed_mps for vehicle in street.vehicles)
    first, last = (frame for frame, _ in list(simulate_drive(4, 4))[::3])
    assert last.stamp_ns - first.stamp_ns == 300_000_000
    assert last.pose[0, 3] > first.pose[0, 3]


@pytest.mark.parametrize("seed", range(6))
def test_traffic_keeps_apart_and_keeps_coming(seed):
    duration_s = 60.0
    street = build_street(duration_s, np.random.default_rng(seed))
    for time_s in (0.0, 30.0, duration_s):
        ego_x = street.ego_speed_mps * time_s
        rows = [(*v.at(time_s), *v.size_m[:2], v.yaw_rad) for v in street.vehicles]
        near = np.array([row for row in rows if abs(row[0] - ego_x) < 90] + [(ego_x, street.ego_y_m, 4.2, 1.8, 0.0)])
        overlap = rotated_iou_reference(near, near) - np.eye(len(near))
        assert overlap.max() < 1e-6
        oncoming = [v for v in street.vehicles if v.speed_mps and np.cos(v.yaw_rad) < 0]
        assert any(0 < v.at(time_s)[0] - ego_x < 100 for v in oncoming)


def test_sample_writes_a_drive_that_reads_back(tmp_path):
    out = tmp_path / "drive"
    words = ["sample", str(out), "--frames", "2", "--seed", "3"]
    assert CliRunner().invoke(main, words).exit_code == 0
    (source,) = open_sources([out])
    assert source.layout == "kitti object" and [file.id for file in source.frames] == ["000000", "000001"]
    frame, (expected, labels) = source.frames[0].load(), next(simulate_drive(2, 3))
    assert np.array_equal(frame.points, expected.points)
    np.testing.assert_allclose(frame.calibration.camera_from_lidar, CALIBRATION.camera_from_lidar)
    written = read_labels(source.frames[0].label_path)
    np.testing.assert_allclose(written.locations_m, labels.locations_m, atol=1e-4)
    assert (out / "ImageSets/val.txt").read_text().split() == ["000000", "000001"]
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 2 and "--overwrite" in " ".join(again.stderr.split())
    assert CliRunner().invoke(main, [*words, "--overwrite"]).exit_code == 0
