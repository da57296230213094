"""The simulator's ray caster: solids and ground against closed forms and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.simulated_scenes import HIGH_M, cast_level, level_rays, profile, range_along
from tools.simulation.caster import GROUND, NOTHING
from tools.simulation.intersect import LEAF_DEPTH_M
from tools.simulation.materials import OPTICS, Material
from tools.simulation.raycast import cast, count_unoccluded
from tools.simulation.scene import build_scene, build_way
from tools.simulation.solids import Solids, box, crown, cylinder, ellipsoid, frustum
from tools.simulation.surface import Ground, Surface, level_surface

WOOD = Material.BARK
Z = HIGH_M


@pytest.mark.parametrize("turn", [0.0, 0.7, np.pi / 2, 3.0, -2.2])
def test_rays_meet_solids_where_geometry_says(turn):
    def met(solid, elevation=0.0):
        return range_along(solid.placed(np.zeros(3), turn), turn, elevation)[0]

    assert met(box((10, 0, Z - 1), (4, 2, 2), WOOD)) == pytest.approx(8)
    assert met(cylinder((10, 0, Z - 1), 0.5, 2, WOOD)) == pytest.approx(9.5)
    assert met(cylinder((10, 0, Z + 1), 0.5, 2, WOOD)) == np.inf
    assert met(ellipsoid((10, 0, Z), (3, 1, 2), WOOD)) == pytest.approx(7)
    assert met(ellipsoid((10, 0, Z), (3, 1, 2), WOOD, yaw_rad=np.pi / 2)) == pytest.approx(9)
    # A windscreen: 4 m long below, 2 m above, 2 m high; at half height its front is at 10 - 1.5.
    assert met(frustum((10, 0, Z - 1), (4, 2), (2, 2), 2, WOOD)) == pytest.approx(8.5)
    # Shifted forward by 0.5 m: the rear, which the ray meets, leans more: 10 - 2 + (1 + 0.5) / 2.
    assert met(frustum((10, 0, Z - 1), (4, 2), (2, 2), 2, WOOD, shift_m=0.5)) == pytest.approx(8.75)
    # From above onto a lid 1 m below: down by 45 degrees.
    assert met(cylinder((1, 0, Z - 3), 0.5, 2, WOOD), -np.pi / 4) == pytest.approx(np.sqrt(2))
    assert met(cylinder((0, 0, Z - 3), 5, 6, WOOD)) == np.inf, "from inside nothing is met"


def test_cosines_are_those_of_the_normals():
    def cosine(solid, elevation=0.0):
        return cast_level(solid, 0.0, elevation).cosine[0, 0, 0]

    assert cosine(box((10, 0, Z - 1), (4, 2, 2), WOOD, yaw_rad=0.3)) == pytest.approx(np.cos(0.3))
    lean = np.arctan(0.5)  # of the windscreen's normal: 1 m forward on 2 m of height
    assert cosine(frustum((10, 0, Z - 1), (4, 2), (2, 2), 2, WOOD)) == pytest.approx(np.cos(lean))
    assert cosine(cylinder((10, 0.3, Z - 1), 0.5, 2, WOOD)) == pytest.approx(0.8)
    assert cosine(ellipsoid((10, 0.3, Z), (0.5, 0.5, 0.5), WOOD)) == pytest.approx(0.8)
    assert cosine(cylinder((1, 0, Z - 3), 0.5, 2, WOOD), -np.pi / 4) == pytest.approx(np.sqrt(0.5))


def slab_range(base, size, yaw, directions):
    """Where rays (N, 3) from (0, 0, Z) enter a turned box, by the slab method; inf where they miss it."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    origin, rays = turn @ (np.array([0, 0, Z]) - base), directions @ turn.T
    low, high = np.array([-size[0] / 2, -size[1] / 2, 0]), np.array([size[0] / 2, size[1] / 2, size[2]])
    with np.errstate(divide="ignore"):
        sides = (np.stack([low, high])[:, None] - origin) / rays
    enter, leave = sides.min(axis=0).max(axis=1), sides.max(axis=0).min(axis=1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def direction(azimuth, elevation):
    """(A, B, 3)"""
    a, e = np.meshgrid(azimuth, elevation, indexing="ij")
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=-1)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_boxes_by_brute_force(seed, count):
    rng = np.random.default_rng(seed)
    given_ = [
        (np.array([*rng.uniform(-30, 30, 2), Z + rng.uniform(-6, 4)]), rng.uniform(0.1, 8, 3), rng.uniform(-3, 3))
        for _ in range(count)
    ]
    solids = Solids.join([box(tuple(base), tuple(size), WOOD, 1.0, yaw) for base, size, yaw in given_])
    azimuth, elevation = np.linspace(-np.pi, np.pi, 181)[:-1] + 1e-4, np.array([-0.3, -0.05, 0.0, 0.03, 0.4])
    hits = cast_level(solids, azimuth, elevation, limit_m=60.0)
    rays = direction(azimuth, elevation).reshape(-1, 3)
    all_ranges = np.array([slab_range(*solid, rays) for solid in given_]).reshape(count, len(rays))
    nearest = all_ranges.min(axis=0, initial=np.inf)
    found, what = hits.range_m[..., 0].ravel(), hits.hit[..., 0].ravel()
    np.testing.assert_allclose(found[nearest < 60], nearest[nearest < 60], rtol=1e-9)
    assert (np.isinf(found) == (nearest >= 60)).all() and (what[nearest >= 60] == NOTHING).all()
    if count:
        assert (what[nearest < 60] == all_ranges.argmin(axis=0)[nearest < 60]).all()


def test_few_columns_around_a_turn_miss_nothing():
    """Columns that share a list of solids may lie on all sides."""
    turns = np.linspace(-3.0, 3.0, 7)
    posts = [cylinder((8 * np.cos(turn), 8 * np.sin(turn), Z - 1), 0.5, 2, WOOD) for turn in turns]
    hits = cast_level(Solids.join(posts), turns)
    np.testing.assert_allclose(hits.range_m[:, 0, 0], 7.5)
    assert hits.hit[:, 0, 0].tolist() == list(range(7))


def scaled_sphere(centre, axes, yaw, start, rays):
    """Where rays meet an ellipsoid, from the definition: |S⁻¹ R (p - c)| = 1."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    shrink = np.diag(1 / np.array(axes)) @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    p, d = shrink @ (start - centre), rays @ shrink.T
    a, b, c = (d * d).sum(axis=1), d @ p, p @ p - 1
    with np.errstate(invalid="ignore"):
        near = (-b - np.sqrt(b * b - a * c)) / a
    return np.where(near > 0, near, np.inf)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_ellipsoids_by_their_definition(seed):
    rng = np.random.default_rng(seed)
    centre, axes = np.array([*rng.uniform(-20, 20, 2), Z + rng.uniform(-2, 2)]), rng.uniform(0.1, 3, 3)
    yaw = rng.uniform(-3, 3)
    azimuth, elevation = np.arctan2(centre[1], centre[0]) + np.linspace(-0.3, 0.3, 41), np.linspace(-0.2, 0.2, 9)
    hits = cast_level(ellipsoid(tuple(centre), tuple(axes), WOOD, 1.0, yaw), azimuth, elevation)
    expected = scaled_sphere(centre, axes, yaw, np.array([0, 0, Z]), direction(azimuth, elevation).reshape(-1, 3))
    if np.linalg.norm((np.array([0, 0, Z]) - centre) / axes) > 1.5:  # from outside
        np.testing.assert_allclose(hits.range_m[..., 0].ravel(), expected, rtol=1e-7)


def test_crowns_let_beams_through_and_scatter_them():
    azimuth = np.zeros(20000) + np.linspace(-1e-6, 1e-6, 20000)
    thick, thin = crown((10, 0, Z), 3, 2), crown((10, 0, Z), 0.35, 2)
    depth = cast_level(thick, azimuth).range_m[:, 0, 0] - 7
    assert np.isinf(depth).mean() == pytest.approx(np.exp(-6 / LEAF_DEPTH_M), abs=2e-3)
    inside = depth[np.isfinite(depth)]
    assert inside.min() > 0 and inside.mean() == pytest.approx(LEAF_DEPTH_M, rel=0.03)
    passed = np.isinf(cast_level(thin, azimuth).range_m[:, 0, 0]).mean()
    assert passed == pytest.approx(np.exp(-0.7 / LEAF_DEPTH_M), abs=0.01)


def test_glass_lets_its_share_through():
    azimuth = np.linspace(-0.2, 0.2, 20000)
    pane, wall = box((10, 0, Z - 2), (0.01, 20, 4), Material.GLASS), box((20.5, 0, Z - 2), (1, 40, 4), WOOD)
    hits = cast_level(Solids.join([pane, wall]), azimuth)
    behind = hits.hit[:, 0, 0] == 1
    assert behind.mean() == pytest.approx(OPTICS[Material.GLASS].transmits, abs=0.02)
    np.testing.assert_allclose(hits.range_m[behind, 0, 0] * np.cos(azimuth[behind]), 20)
    assert (hits.first[:, 0] == 0).all(), "what lets a beam through was met all the same"


def test_moving_and_turning_solids_are_where_their_column_sees_them():
    car = box((10, 0, Z - 1), (4, 2, 2), WOOD)
    motion = np.array([[20.0, 0.0, 0.0]])
    rays = level_rays(np.zeros(3), 0.0)._replace(time=np.array([-0.05, 0.0, 0.05]))
    scene = build_scene(car, motion, level_surface(), np.zeros(2), 60.0)
    hits = cast(scene, rays, build_way(scene, rays, 0.0, 60.0, 0))
    np.testing.assert_allclose(hits.range_m[:, 0, 0], [7, 8, 9])
    scene = build_scene(car, np.array([[0.0, 0.0, 5.0]]), level_surface(), np.zeros(2), 60.0)
    hits = cast(scene, rays, build_way(scene, rays, 0.0, 60.0, 0))
    np.testing.assert_allclose(hits.range_m[:, 0, 0], 10 - 2 / np.cos([0.25, 0, 0.25]))
    np.testing.assert_allclose(hits.cosine[:, 0, 0], np.cos([0.25, 0, 0.25]))


def test_unoccluded_counts_ignore_the_wall_and_count_a_beam_once():
    car = Solids.join([box((20, 0, Z - 1), (4, 2, 1), WOOD), box((20, 0, Z), (3, 1.5, 0.6), WOOD)])
    rays = level_rays(np.linspace(-0.1, 0.1, 201), np.linspace(-0.05, 0.05, 21))
    scene = build_scene(car, np.zeros((2, 3)), level_surface(), np.zeros(2), 60.0)
    way = build_way(scene, rays, 0.0, 60.0, 0)
    found = cast(scene, rays, way)
    for owner, expected in (([0, 0], [found.hit[..., 0] >= 0]), ([0, 1], None)):
        counts = count_unoccluded(scene, np.array(owner, np.int32), 2, rays, way)
        assert counts[0] > 100
        if expected is not None:
            assert counts.tolist() == [expected[0].sum(), 0]
    for index in (0, 1):
        alone = build_scene(car.take(np.array([index])), np.zeros((1, 3)), level_surface(), np.zeros(2), 60.0)
        assert counts[index] == (cast(alone, rays, way).hit[..., 0] >= 0).sum()


@pytest.mark.parametrize("height", [0.0, -0.7, 0.31])
def test_level_ground_and_its_kinds(height):
    flat = level_surface(Ground.GRASS)
    flat = Surface(flat.origin_m, flat.cell_m, flat.height_m + np.float32(height), flat.kind)
    elevation = np.array([-0.5, -0.1, -0.06, 0.01])
    hits = cast_level(Solids.join([]), [0.3, 2.9], elevation, (0.03, -0.2, 1.9), flat)
    expected = (1.9 - np.float32(height)) / np.sin(-elevation[:3])
    np.testing.assert_allclose(hits.range_m[:, :3, 0], np.tile(expected, (2, 1)), atol=1e-6)
    np.testing.assert_allclose(hits.cosine[:, :3, 0], np.tile(np.sin(-elevation[:3]), (2, 1)), rtol=1e-6)
    assert (hits.hit[:, :3] == GROUND - Ground.GRASS).all() and (hits.hit[:, 3] == NOTHING).all()


def test_outside_the_raster_is_level_earth():
    hits = cast_level(Solids.join([]), 0.0, -0.1, (59.0, 0.0, 1.9), level_surface(Ground.ROAD))
    assert hits.hit[0, 0, 0] == GROUND - Ground.EARTH
    assert hits.range_m[0, 0, 0] == pytest.approx(1.9 / np.sin(0.1))


@pytest.mark.parametrize("rise", [0.1, -0.04, 0.3])
def test_ramp(rise):
    ramp, _ = profile(lambda x: rise * x)
    elevation = np.array([-0.6, -0.2, -0.15])
    hits = cast_level(Solids.join([]), 0.0, elevation, (0.0, 0.0, 2.0), ramp)
    expected = 2.0 / (np.cos(elevation) * rise - np.sin(elevation))
    np.testing.assert_allclose(hits.range_m[0, :, 0], expected, atol=1e-4)
    normal = np.array([-rise, 0, 1]) / np.hypot(rise, 1)
    np.testing.assert_allclose(hits.cosine[0, :, 0], -direction(0.0, elevation)[0] @ normal, atol=1e-5)


def first_crossing(x, height, z, elevation, start_x=0.0):
    """Where a ray in the plane y = 0 meets a polyline, piece by piece; the distance."""
    slope = np.tan(elevation)
    above = z + slope * (x - start_x) - height
    for k in np.nonzero((x[1:] > start_x) & (above[1:] <= 0))[0]:
        if above[k] > 0:
            share = above[k] / (above[k] - above[k + 1])
            return (x[k] + share * (x[k + 1] - x[k]) - start_x) / np.cos(elevation)
    return np.inf


@pytest.mark.parametrize("kerb_x", [6.0, 11.13, 30.0])
def test_kerb(kerb_x):
    step, x = profile(lambda x: np.where(x > kerb_x, 0.12, 0.0))
    elevation = -np.arctan(1.9 / np.linspace(3, 38, 200))
    hits = cast_level(Solids.join([]), 0.0, elevation, (0.0, 0.0, 1.9), step)
    heights = step.height_m[:, 0].astype(float)
    expected = [first_crossing(x, heights, 1.9, e) for e in elevation]
    np.testing.assert_allclose(hits.range_m[0, :, 0], expected, atol=2e-4)
    on_face = (hits.cosine[0, :, 0] > 0.5) & (np.array(expected) > 4)
    assert on_face.sum() >= 1, "some rays meet the kerb's face"


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.05))
def test_rough_ground_by_brute_force(seed, spread):
    """Several times as rough as any world; where cells differ by decimetres, peaks are cut off by more than this."""
    rng = np.random.default_rng(seed)
    height = rng.normal(0, spread, (150, 150)).astype(np.float32)
    rough = Surface(np.array([-15.1, -14.9]), 0.2, height, np.zeros(height.shape, np.uint8))
    azimuth, elevation = rng.uniform(-np.pi, np.pi, 8), -rng.uniform(0.14, 0.6, 6)
    found = cast_level(Solids.join([]), np.sort(azimuth), elevation, (0.0, 0.0, 1.9), rough)
    steps, apart = np.arange(0.0, 17.0, 0.002), []
    for a, column in zip(np.sort(azimuth), found.range_m[..., 0], strict=True):
        for e, distance in zip(elevation, column, strict=True):
            x, y = (steps * np.cos(e) * f for f in (np.cos(a), np.sin(a)))
            above = 1.9 + steps * np.sin(e) - rough.height_at(x, y)
            first = steps[np.argmax(above <= 0)]
            # A peak that is crossed between two samples of the walk, 0.2 m apart, may be cut off: then the ray goes on.
            assert distance >= first - 0.01
            z = 1.9 + distance * np.sin(e)
            ground = rough.height_at(distance * np.cos(e) * np.cos(a), distance * np.cos(e) * np.sin(a))
            apart.append(abs(z - float(ground)))
            if spread < 0.01:
                assert distance == pytest.approx(first, abs=0.25)
    assert max(apart) < 1e-5


def test_nearest_of_ground_and_solids():
    solids = Solids.join([box((30, 0, 0), (1, 9, 4), WOOD), box((20, 0, 0), (1, 9, 1), WOOD)])
    elevation = np.array([-0.3, -0.06, 0.0, 0.2])
    hits = cast_level(solids, 0.0, elevation, (0.0, 0.0, 1.9), level_surface())
    assert hits.hit[0, :, 0].tolist() == [GROUND - Ground.ROAD, 1, 0, NOTHING]
    assert hits.range_m[0, 1, 0] == pytest.approx(19.5 / np.cos(0.06))
