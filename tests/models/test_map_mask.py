"""Maps as masks: formats against one another, looking up against brute force, and against a simulated world."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from scipy import ndimage

from models.grid import BevSpec
from models.map_mask import MapCells, MapError, read_map
from models.mask_network import MASK_STRIDE
from tools.simulation.road_raster import find_road
from tools.simulation.sensor import load_sensor
from tools.simulation.surface import Ground
from tools.simulation.sweep import world_from_lidar
from tools.simulation.world import build_world

SPEC = BevSpec(x_max_m=12.8, y_min_m=-6.4, y_max_m=6.4)
NOTHING = np.zeros((0, 4), np.float32)
RASTER = (np.random.default_rng(0).random((30, 40)) < 0.2).astype(np.uint8)
GEO = {"model": 1024, "raster": 1025}
HERE = {"frame": "world", "x_min_m": -3.0, "y_min_m": -8.0, "cell_m": 0.5}


def save_map(path, raster, sidecar=None, tags=None):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in (tags or {}).items():
        info.tagtype[tag] = kind
        info[tag] = value
    Image.fromarray(raster).save(path, **({"tiffinfo": info} if tags else {}))
    if sidecar:
        path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    return path


def pose_at(x_m, y_m, yaw_rad):
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0, x_m], [sin, cos, 0, y_m], [0, 0, 1, 1.7], [0, 0, 0, 1]])


def sampled(road, spec, pose, reach_m=0.0):
    """The most of what lies within ``reach_m`` of each cell, by many places in it; set outside of the map."""
    cell_m = spec.cell_m * MASK_STRIDE
    rows, cols = round((spec.x_max_m - spec.x_min_m) / cell_m), round((spec.y_max_m - spec.y_min_m) / cell_m)
    across = np.linspace(1e-6 - reach_m, cell_m + reach_m - 1e-6, 13)
    x = (spec.x_min_m + np.arange(rows) * cell_m)[:, None, None, None] + across[:, None]
    y = (spec.y_min_m + np.arange(cols) * cell_m)[None, :, None, None] + across
    x, y = np.broadcast_arrays(x, y)
    places = np.stack([x, y, 0 * x, 0 * x + 1]).reshape(4, -1)
    pixel_from_place = np.linalg.inv(np.vstack([road.place_from_pixel, [0, 0, 1]]))
    col, row = np.floor((pixel_from_place @ (pose @ places)[[0, 1, 3]])[:2]).astype(int)
    height, width = road.drivable.shape
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    found = ~inside | road.drivable[np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)]
    return found.reshape(rows, cols, -1).any(axis=2)


@settings(max_examples=25)
@given(
    x_m=st.floats(-4, 12),
    y_m=st.floats(-9, 9),
    yaw_rad=st.floats(-3.2, 3.2),
    cell_m=st.sampled_from([0.05, 0.13, 0.2, 0.25, 0.4, 0.7, 1.5]),
    seed=st.integers(0, 1000),
)
def test_a_cell_gets_the_most_of_what_is_in_it(tmp_path_factory, x_m, y_m, yaw_rad, cell_m, seed):
    raster = (np.random.default_rng(seed).random((25, 35)) < 0.05).astype(np.uint8)
    path = save_map(tmp_path_factory.mktemp("map") / "a.png", raster, HERE | {"cell_m": cell_m})
    pose = pose_at(x_m, y_m, yaw_rad)
    mask = MapCells(SPEC, path)(NOTHING, pose)
    assert mask.shape == (32, 32) and mask.dtype == np.float32 and set(np.unique(mask)) <= {0, 1}
    road = read_map(path)
    assert not (sampled(road, SPEC, pose) & (mask == 0)).any(), "no road is lost"
    assert not ((mask > 0) & ~sampled(road, SPEC, pose, reach_m=1.5 * max(cell_m, 0.4))).any(), "and not much is added"


def test_an_ego_map_is_the_frame_itself_and_needs_no_pose(tmp_path):
    raster = np.zeros((32, 32), np.uint8)
    raster[4, 9] = 7
    path = save_map(tmp_path / "a.png", raster, {"frame": "ego", "x_min_m": 0, "y_min_m": -6.4, "cell_m": 0.4})
    source = MapCells(SPEC, path)
    mask = source(NOTHING)
    assert mask[4, 9] == 1 and np.argwhere(mask).min(axis=0).tolist() == [0, 0], "row is x, column is y"
    inner = mask[1:-1, 1:-1]
    expected = ndimage.binary_dilation(raster, np.ones((3, 3)))[1:-1, 1:-1]
    assert np.array_equal(inner, expected), "pixels that touch the cell's edge count"
    assert source(NOTHING, pose_at(100, 100, 1)) is mask


def test_formats_say_the_same_place(tmp_path):
    """A raster with rows along x, and the same as a picture with north up: column = x, row = -y."""
    picture = np.ascontiguousarray(RASTER.T[::-1])
    left, top, cell = HERE["x_min_m"], HERE["y_min_m"] + RASTER.shape[1] * 0.5, HERE["cell_m"]
    area = (1, 1, 0, 1, GEO["raster"], 0, 1, 1)
    point = (1, 1, 0, 1, GEO["raster"], 0, 1, 2)
    matrix = (cell, 0, 0, left, 0, -cell, 0, top, 0, 0, 0, 0, 0, 0, 0, 1)
    scale, tie = (12, (cell, cell, 0.0)), (12, (2.0, 3.0, 0.0, left + 2 * cell, top - 3 * cell, 0.0))
    at_middle = (12, (2.0, 3.0, 0.0, left + 2.5 * cell, top - 3.5 * cell, 0.0))
    paths = [
        save_map(tmp_path / "world.png", picture),
        save_map(tmp_path / "world.tif", picture),
        save_map(tmp_path / "area.tif", picture, tags={33550: scale, 33922: tie, 34735: (3, area)}),
        save_map(tmp_path / "none.tif", picture, tags={33550: scale, 33922: tie}),
        save_map(tmp_path / "point.tiff", picture, tags={33550: scale, 33922: at_middle, 34735: (3, point)}),
        save_map(tmp_path / "matrix.tif", picture, tags={34264: (12, matrix)}),
    ]
    lines = f"{cell}\n0\n0\n{-cell}\n{left + cell / 2}\n{top - cell / 2}\n"
    (tmp_path / "world.pgw").write_text(lines)
    (tmp_path / "world.tfw").write_text(lines)
    expected = MapCells(SPEC, save_map(tmp_path / "rows.png", RASTER, HERE))(NOTHING, pose_at(1.1, 0.3, 0.4))
    assert 0 < expected.mean() < 1
    for path in paths:
        assert np.array_equal(MapCells(SPEC, path)(NOTHING, pose_at(1.1, 0.3, 0.4)), expected), path


def test_what_pixels_mean(tmp_path):
    values = np.array([[0, 1], [2, 255]], np.uint8)
    default = read_map(save_map(tmp_path / "a.png", values, HERE))
    assert default.drivable.tolist() == [[False, True], [True, True]]
    listed = read_map(save_map(tmp_path / "b.png", values, HERE | {"values": [0, 2]}))
    assert listed.drivable.tolist() == [[True, False], [True, False]]
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[..., 3], colours[0, 1, 2] = 255, 9
    assert read_map(save_map(tmp_path / "c.png", colours, HERE)).drivable.tolist() == [[False, True], [False, False]]
    unknown = np.array([[0, 1], [-9999, np.nan]], np.float32)
    tags = {33550: (12, (1.0, 1.0, 0.0)), 33922: (12, (0.0,) * 6), 42113: (2, "-9999")}
    assert read_map(save_map(tmp_path / "d.tif", unknown, tags=tags)).drivable.tolist() == [[False, True], [True, True]]


def test_a_frame_without_pose_is_computed_whole_and_told_once(tmp_path, caplog):
    source = MapCells(SPEC, save_map(tmp_path / "a.png", RASTER * 0, HERE))
    with caplog.at_level(logging.WARNING):
        assert source(NOTHING).all() and source(NOTHING, np.full((4, 4), np.nan)).all()
    assert len(caplog.records) == 1 and "a.png" in caplog.text
    far = source(NOTHING, pose_at(500, 0, 0))
    assert far.all(), "outside of the map nobody knows"
    assert not source(NOTHING, pose_at(-2.9, 2, 0)).all()


@pytest.mark.parametrize(
    "name, content, sidecar, message",
    [
        ("a.png", None, None, "no such file"),
        ("a.jpg", b"", None, "unknown kind"),
        ("a.png", b"\x89PNG\r\n\x1a\nnothing", HERE, "expected a PNG or TIFF"),
        ("a.png", RASTER, None, "nothing says where it lies"),
        ("a.tif", RASTER, None, "nothing says where it lies"),
        ("a.png", RASTER, HERE | {"cell": 1}, "unknown keys"),
        ("a.png", RASTER, HERE | {"cell_m": 0}, "cell_m"),
        ("a.png", RASTER, HERE | {"cell_m": float("nan")}, "finite"),
        ("a.png", RASTER, HERE | {"frame": "moon"}, "frame"),
        ("a.png", RASTER, HERE | {"values": 3}, "values"),
        ("a.png", RASTER, ["ego"], "expected keys"),
    ],
)
def test_errors_name_the_file(tmp_path, name, content, sidecar, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_map(path, content)
    if sidecar is not None:
        path.with_name(f"{name}.json").write_text(json.dumps(sidecar))
    with pytest.raises(MapError, match=message) as caught:
        read_map(path)
    assert str(path) in str(caught.value)


def test_bad_places_and_bombs(tmp_path):
    path = save_map(tmp_path / "a.png", RASTER)
    (tmp_path / "a.pgw").write_text("1\n2\n3")
    with pytest.raises(MapError, match="six numbers"):
        read_map(path)
    (tmp_path / "a.pgw").write_text("1\n1\n1\n1\n0\n0")
    with pytest.raises(MapError, match="area"):
        read_map(path)
    tags = {33550: (12, (1e-5, 1e-5, 0.0)), 33922: (12, (0.0,) * 6), 34735: (3, (1, 1, 0, 1, GEO["model"], 0, 1, 2))}
    with pytest.raises(MapError, match="degrees"):
        read_map(save_map(tmp_path / "degrees.tif", RASTER, tags=tags))
    (tmp_path / "bomb.png.json").write_text(json.dumps(HERE))
    for width in (90_000, 200_000):  # more than ours, more than Pillow opens
        Image.new("1", (width, 900)).save(tmp_path / "bomb.png", compress_level=1)
        with pytest.raises(MapError, match="pixels"):
            read_map(tmp_path / "bomb.png")


def test_the_map_of_a_simulated_world_is_the_road_of_its_frames(tmp_path):
    world, sensor, spec = build_world(3.0, np.random.default_rng(5)), load_sensor("hdl64e"), BevSpec()
    surface = world.surface
    place = {"x_min_m": surface.origin_m[0], "y_min_m": surface.origin_m[1], "cell_m": surface.cell_m}
    kinds = [int(Ground.ROAD), int(Ground.MARKING)]
    source = MapCells(spec, save_map(tmp_path / "a.png", surface.kind, {"frame": "world", "values": kinds, **place}))
    assert MASK_STRIDE == 4
    for time_s in (0.0, 2.9):
        road = find_road(sensor, world, time_s, BevSpec(cell_m=0.2)).road.reshape(176, 2, 200, 2).any(axis=(1, 3))
        mask = source(NOTHING, world_from_lidar(sensor, world, time_s)) > 0
        x = spec.x_min_m + (np.arange(176)[:, None] + 0.5) * 0.4
        near = np.broadcast_to(x < 40, road.shape)  # the world's raster ends 60 m from its roads
        assert 0.02 < road[near].mean() < 0.9
        cell = np.ones((3, 3))
        assert not (near & road & ~ndimage.binary_dilation(mask, cell)).any()
        assert not (near & mask & ~ndimage.binary_dilation(road, cell)).any()
        assert (mask & road).sum() > 0.99 * road.sum()
