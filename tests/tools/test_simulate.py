"""The simulator: rays against closed forms, labels against points, same seed same bytes."""

import numba
import numpy as np
import pytest
from click.testing import CliRunner

from detector.boxes import boxes_from_labels, points_in_box
from detector.cli import main
from detector.labels import read_labels
from detector.sources import open_sources
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


def test_sectors_lose_no_solid():
    rng = np.random.default_rng(0)
    solids = Solids.join(
        [box((*rng.uniform(-30, 30, 2), -1), tuple(rng.uniform(0.2, 8, 3)), 0.5, rng.uniform(-3, 3)) for _ in range(60)]
    )
    azimuth = azimuths(HDL_64E)[::7]
    ranges, hits, _ = cast(solids, FAR_GROUND, LEVEL, azimuth, np.zeros((1, len(azimuth))))
    for column, angle in enumerate(azimuth):
        alone = [range_along(Solids.join([solids.placed(np.zeros(3), 0.0)]), angle)[0]]
        assert ranges[0, column] == alone[0]
    # Every solid is in the sector of its own middle.
    starts, members = sort_into_sectors(solids)
    for index, (x, y, _) in enumerate(solids.base):
        sector = int((np.arctan2(y, x) + np.pi) / (2 * np.pi) * 720) % 720
        assert index in members[starts[sector] : starts[sector + 1]]
    assert (hits >= 0).any()


def test_points_lie_on_what_was_hit():
    quiet = Sensor(HDL_64E.elevation_rad, azimuth_steps=360, range_noise_m=0.0, lost_at_70_m=0.0)
    wall = Solids.join([box((15.5, 0, -1.73), (1, 40, 6), 0.5)])
    points, owner = sweep(quiet, wall, azimuths(quiet, 0.5), np.random.default_rng(0))
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
                assert box_[2] - box_[5] / 2 == pytest.approx(-1.73, abs=1e-3), "wheels on the road"
            assert ((labels.truncated >= 0) & (labels.truncated <= 1)).all()
    assert min(counts) >= 3 and len(counts) > 40 and levels == {0.0, 1.0, 2.0}


def occlusion_scene(wall_height):
    rng = np.random.default_rng(0)
    car = make_vehicle("Car", (20.0, 0.0), 0.0, rng)
    return Street(box((10, 0, 0), (0.5, 9, wall_height), 0.5), (car,), 0.0, 0.0)


@pytest.mark.parametrize(("wall_height", "expected"), [(0.01, [0.0]), (1.1, [1.0, 2.0]), (4.0, [])])
def test_occlusion_by_a_wall(wall_height, expected):
    _, labels = simulate_frame(occlusion_scene(wall_height), 0, np.random.default_rng(1))
    found = labels.occluded.tolist()
    assert (found == expected) if not expected else (len(found) == 1 and found[0] in expected)


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
    street = build_street(30.0, np.random.default_rng(4))
    assert street.ego_speed_mps > 0 and any(vehicle.speed_mps for vehicle in street.vehicles)
    first, last = (frame for frame, _ in list(simulate_drive(4, 4))[::3])
    assert last.stamp_ns - first.stamp_ns == 300_000_000
    assert last.pose[0, 3] > first.pose[0, 3]


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
