"""Poses of KITTI raw drives against closed forms and a sphere's own geometry, and those of simulated drives."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import FrameError, LabelError
from detector.poses import EARTH_RADIUS_M, Origin, OxtsPoses, east_north, find_poses, read_track_poses, rotation

KARLSRUHE = Origin(49.0, 8.4)


def write_drive(root, packets, lidar_from_imu=((1, 0, 0), (0, 1, 0), (0, 0, 1)), offset=(0.0, 0.0, 0.0)):
    drive = root / "2011_09_26" / "2011_09_26_drive_0001_sync"
    (drive / "oxts" / "data").mkdir(parents=True)
    numbers = " ".join(str(value) for value in np.ravel(lidar_from_imu))
    text = f"calib_time: 25-May-2012 16:47:16\nR: {numbers}\nT: {offset[0]} {offset[1]} {offset[2]}\n"
    (drive.parent / "calib_imu_to_velo.txt").write_text(text)
    for number, packet in enumerate(packets):
        line = " ".join(repr(float(value)) for value in (*packet, *np.zeros(24)))
        (drive / "oxts" / "data" / f"{number:010d}.txt").write_text(line)
    return drive


@given(st.floats(-0.01, 0.01), st.floats(-0.01, 0.01), st.floats(-60, 60), st.floats(-180, 180))
def test_a_metre_is_a_metre_near_the_origin(north_deg, east_deg, latitude, longitude):
    east, north = east_north(latitude + north_deg, longitude + east_deg, Origin(latitude, longitude))
    metre = np.radians(1) * EARTH_RADIUS_M
    assert north == pytest.approx(north_deg * metre, rel=1e-3, abs=1e-6)
    assert east == pytest.approx(east_deg * metre * np.cos(np.radians(latitude)), rel=1e-6, abs=1e-6)


def test_mercator_by_its_textbook_form():
    for latitude in (-70.0, -1.0, 0.0, 48.7, 80.0):
        scale = EARTH_RADIUS_M * np.cos(np.radians(49.0))
        north = scale * np.log(np.tan(np.radians(90 + latitude) / 2) / np.tan(np.radians(90 + 49.0) / 2))
        assert east_north(latitude, 9.4, KARLSRUHE) == pytest.approx((scale * np.radians(1.0), north), rel=1e-9)


def test_yaw_is_counter_clockwise_from_east_and_pitch_lowers_the_front():
    ahead, left, up = np.eye(3)
    np.testing.assert_allclose(rotation(0, 0, np.pi / 2) @ ahead, [0, 1, 0], atol=1e-12)
    assert (rotation(0, 0.1, 0) @ ahead)[2] < 0 < (rotation(0.1, 0, 0) @ left)[2]
    turn = rotation(0.2, -0.3, 2.0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert np.arctan2(*(turn @ ahead)[[1, 0]]) == pytest.approx(2.0) and (turn @ up)[2] > 0.9


def test_poses_of_a_drive(tmp_path):
    north_deg = np.degrees(10 / (EARTH_RADIUS_M * np.cos(np.radians(49.0)))) * np.cos(np.radians(49.0))
    packets = [(49.0, 8.4, 112.0, 0, 0, 0), (49.0 + north_deg, 8.4, 113.0, 0, 0, np.pi / 2)]
    drive = write_drive(tmp_path, packets, offset=(-0.8, 0.3, -0.8))  # the lidar is 0.8 m ahead of the imu, 0.8 m above
    poses = find_poses(drive)
    assert isinstance(poses, OxtsPoses) and poses.origin == KARLSRUHE
    np.testing.assert_allclose(poses("0000000000")[:3, 3], [0.8, -0.3, 112.8], atol=1e-9)
    second = poses("0000000001")
    np.testing.assert_allclose(second[:3, 3], [0.3, 10 + 0.8, 113.8], atol=1e-3)
    np.testing.assert_allclose(second @ [1, 0, 0, 0], [0, 1, 0, 0], atol=1e-12)
    assert poses("0000000002") is None, "a packet that was lost"
    shifted = OxtsPoses(drive, Origin(49.0, 8.401))
    assert shifted("0000000000")[0, 3] == pytest.approx(
        0.8 - 0.001 * np.radians(1) * EARTH_RADIUS_M * np.cos(np.radians(49))
    )


def test_a_turned_lidar(tmp_path):
    drive = write_drive(tmp_path, [(49.0, 8.4, 0, 0, 0, 0.5)], rotation(0, 0, -0.2))
    np.testing.assert_allclose(find_poses(drive)("0000000000")[:3, :3], rotation(0, 0, 0.7), atol=1e-12)


@pytest.mark.parametrize("text", ["", "49 8.4 nonsense 0 0 0", "49 8.4 0 0 0", "nan 8.4 0 0 0 0", "91 8.4 0 0 0 0"])
def test_bad_packets(tmp_path, text):
    drive = write_drive(tmp_path, [(49.0, 8.4, 0, 0, 0, 0)] * 2)
    bad = drive / "oxts" / "data" / "0000000001.txt"
    bad.write_text(text)
    with pytest.raises(FrameError, match=str(bad)):
        find_poses(drive)("0000000001")
    bad.rename(drive / "oxts" / "data" / "0000000000.txt")
    with pytest.raises(LabelError, match="latitude"):
        find_poses(drive)


def test_recordings_without_poses(tmp_path):
    assert find_poses(tmp_path) is None
    drive = write_drive(tmp_path, [(49.0, 8.4, 0, 0, 0, 0)])
    (drive.parent / "calib_imu_to_velo.txt").unlink()
    with pytest.raises(LabelError, match="calib_imu_to_velo"):
        find_poses(drive)


def test_tracks(tmp_path):
    pose = np.eye(4).tolist()
    lines = [json.dumps({"frame": "000007", "world_from_lidar": pose, "labels": []}), ""]
    (tmp_path / "tracks.jsonl").write_text("\n".join(lines))
    poses = find_poses(tmp_path)
    assert np.array_equal(poses("000007"), np.eye(4)) and poses("000008") is None
    for bad in ("{", "[]", '{"frame": "1"}', json.dumps({"frame": "1", "world_from_lidar": [[1]]})):
        (tmp_path / "tracks.jsonl").write_text(bad)
        with pytest.raises(LabelError, match="line 1"):
            read_track_poses(tmp_path / "tracks.jsonl")
    with pytest.raises(LabelError, match="cannot be read"):
        read_track_poses(tmp_path / "none.jsonl")
