"""SBNet's tables on this machine: masks, the dense layers against our references, the check, the JSON file."""

import json
from dataclasses import asdict, replace

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from PIL import Image

from detector.errors import RoadblocksError
from kernels.residual_unit import residual_unit_reference
from kernels.tile_conv import active_cells, tile_conv_reference
from kernels.tiles import ActiveTiles, TileSpec
from tools.benchmark import sbnet, sbnet_rows
from tools.benchmark.dense_process import DenseProcess
from tools.benchmark.dense_unit import INPUT
from tools.benchmark.masks import TOLERANCE, read_sweeps, sparsity_of, sweep_mask, top_left
from tools.benchmark.sbnet_plot import draw_figure, figure_rows
from tools.benchmark.sbnet_rows import TABLES, Row, make_workload, measure, read_rows
from tools.benchmark.sparse_layers import SparseLayers

CONV = Row("conv", "conv-5", 1, 25, 44, 6, "synthetic", 0.9, 0.13, 0.88)
UNIT = Row("unit", "conv-5", 2, 25, 44, 8, "synthetic", 0.7, 0.58, 1.64)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Narrow units and few tile sizes."""
    monkeypatch.setitem(sbnet_rows.WIDTHS, "conv-5", 5)
    monkeypatch.setattr(sbnet_rows, "TILE_CELLS", (4, 8))


@pytest.fixture(scope="module")
def sweeps():
    points, azimuth = [], np.linspace(-np.pi, np.pi, 400)
    for range_m in (5, 10, 20, 30, 40, 50):
        for z_m in (-1.7, -1.7 + range_m / 25):
            points.append(np.stack([range_m * np.cos(azimuth), range_m * np.sin(azimuth)]))
            points[-1] = np.concatenate([points[-1], np.full((1, 400), z_m), np.zeros((1, 400))])
    return [np.concatenate(points, 1).T.astype(np.float32)]


def test_table_is_the_papers(shared):
    assert TABLES.read_bytes() == (shared / "sbnet_tables.csv").read_bytes()


def test_table_has_sixteen_rows():
    rows = read_rows()
    assert len(rows) == len({row.name for row in rows}) == 16
    assert rows[4] == Row("unit", "conv-2", 3, 400, 704, 96, "synthetic", 0.9, 0.52, 8.22)


@pytest.mark.parametrize("shape", [(400, 704), (50, 88), (25, 44)])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9, 0.98])
def test_masks_are_as_sparse_as_asked(sweeps, shape, sparsity):
    masks = [top_left(shape, sparsity)]
    masks += [sweep_mask(sweeps[0], shape, sparsity, above) for above in (False, True) if sparsity >= 0.75]
    for mask in masks:
        assert mask.shape == (1, *shape) and mask.dtype == np.float32
        assert set(np.unique(mask)) == {0, 1}
        assert sparsity_of(mask) == pytest.approx(sparsity, abs=TOLERANCE)


def test_masks_lie_where_points_are():
    ahead = np.array([[40.0, -20.0, 0.5, 0]] * 50 + [[-40.0, 20.0, -1.7, 0]] * 60, np.float32)
    everything = sweep_mask(ahead, (400, 704), 0.999, above_ground=False)[0]
    standing = sweep_mask(ahead, (400, 704), 0.999, above_ground=True)[0]
    place = (slice(95, 106), slice(547, 558))  # 20 m right of the sensor, 40 m ahead
    assert standing[place].any() and standing.sum() == standing[80:121, 532:573].sum()
    assert everything[place].any() and everything[295:306, 147:158].any()


def test_sweeps_that_are_too_small_are_refused():
    with pytest.raises(RoadblocksError, match="whole turn"):
        sweep_mask(np.ones((10, 4), np.float32), (50, 88), 0.75, above_ground=False)


def test_real_sweeps_make_masks(shared):
    sweeps, sweeps_from = read_sweeps([], 2)
    assert "real" in sweeps_from and len(sweeps) == 2
    for row in read_rows():
        for mask in row.masks(sweeps):
            assert sparsity_of(mask) == pytest.approx(row.sparsity, abs=TOLERANCE), row.name


def dense(content, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("folded", [False, True])
def test_unit_models_equal_the_references(folded):
    rng = np.random.default_rng(0)
    work = make_workload(UNIT, folded, rng)
    x = rng.standard_normal((1, *UNIT.shape, UNIT.channels), np.float32)
    tiles = ActiveTiles.all(TileSpec.covering(UNIT.shape, 8))
    first = residual_unit_reference(x, work.layers[0], tiles, np.zeros_like(x))
    second = residual_unit_reference(first, work.layers[1], tiles, np.zeros_like(x))
    np.testing.assert_allclose(dense(work.first, x), first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dense(work.model, x), second, rtol=1e-4, atol=1e-4)
    assert work.gflop == pytest.approx(2 * 2 * 25 * 44 * (8 * 5 + 9 * 5 * 5 + 5 * 8) / 1e9)


def test_conv_model_equals_the_reference():
    rng = np.random.default_rng(0)
    work = make_workload(CONV, False, rng)
    x = rng.standard_normal((1, *CONV.shape, CONV.channels), np.float32)
    tiles = ActiveTiles.all(TileSpec.covering(CONV.shape, 8))
    wanted = tile_conv_reference(x, work.layers[0], tiles, np.zeros_like(x))
    np.testing.assert_allclose(dense(work.model, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile_cells", [4, 8])
def test_both_ways_to_run_a_unit_agree(tile_cells):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, *UNIT.shape, UNIT.channels), np.float32)
    layers = SparseLayers(x, make_workload(UNIT, True, rng).layers[:1])
    mask = (rng.random((1, *UNIT.shape)) < 0.02).astype(np.float32)
    fused, tiles = layers.run(mask, tile_cells, "fused")
    fused, active = fused.copy(), active_cells(tiles, x.shape)
    apart, _ = layers.run(mask, tile_cells, "layers")
    assert active[mask > 0].all() and not active.all()
    np.testing.assert_allclose(apart[active], fused[active], rtol=1e-4, atol=1e-4)


def test_what_other_masks_left_does_not_grow():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, *UNIT.shape, UNIT.channels), np.float32)
    layers = make_workload(replace(UNIT, units=6), False, rng).layers
    masks = (rng.random((2, 1, *UNIT.shape)) < 0.02).astype(np.float32)
    wanted = SparseLayers(x, layers).run(masks[1], 4, "fused")[0]
    sparse = SparseLayers(x, layers)
    for _ in range(10):
        for mask in masks:
            sparse.run(mask, 4, "fused")
    assert np.abs(sparse.run(masks[1], 4, "fused")[0]).max() > 10 * np.abs(wanted).max(), "it would grow"
    sparse.clear()
    np.testing.assert_array_equal(sparse.run(masks[1], 4, "fused")[0], wanted)


def test_a_wrong_result_is_refused_at_active_cells_only():
    x = np.random.default_rng(0).standard_normal((1, *CONV.shape, CONV.channels), np.float32)
    work = make_workload(CONV, False, np.random.default_rng(0))
    sparse, mask, wanted = SparseLayers(x, work.layers), top_left(CONV.shape, 0.9), dense(work.model, x).copy()
    wanted[0, 20, 40] += 1
    sbnet_rows._check(CONV, wanted, sparse, [mask], 4, "direct")
    wanted[0, 2, 3, 1] += 0.01
    with pytest.raises(RoadblocksError, match=r"conv/conv-5/synthetic, mask 0: sparse differs from dense by 0\.01"):
        sbnet_rows._check(CONV, wanted, sparse, [mask], 4, "direct")


def test_an_error_in_the_dense_process_is_told(capfd):
    with pytest.raises(RoadblocksError, match="dense layers ended"):
        DenseProcess(b"no model", np.zeros((1, 4, 4, 2), np.float32))
    assert "Error" in capfd.readouterr().err


def test_command_writes_the_documented_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(sbnet, "read_rows", lambda: [CONV, UNIT])
    monkeypatch.setattr(sbnet, "read_sweeps", lambda folders, count: ([], "no sweeps"))
    run = CliRunner().invoke(
        sbnet.sbnet, ["--json", str(tmp_path / "rows.json"), "--rounds", "1"], catch_exceptions=False
    )
    assert run.exit_code == 0 and "SBNet" in run.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["kind"] for row in rows] == ["conv", "unit"]
    for row, asked in zip(rows, (CONV, UNIT), strict=True):
        assert asdict(asked).items() <= row.items()
        assert row["ours"] == row["dense_ms"] / row["sparse_ms"] > 0
        assert 0 < row["tile_fraction"] < 1
        assert {"device", "machine", "versions", "revision", "date", "masks"} <= row.keys()
        assert ("ours_folded" in row) == (asked.kind == "unit")


def test_masks_of_sweeps_are_measured_too(sweeps):
    row = Row("conv", "conv-5", 1, 25, 44, 4, "predicted", 0.9, 0.55, 1.32)
    measured = measure(row, row.masks(sweeps * 2), rounds=1)
    assert measured.tile_cells in (4, 8) and measured.speedup > 0


def test_unknown_rows_are_an_error():
    result = CliRunner().invoke(sbnet.sbnet, ["--rows", "unit/conv-9/*"])
    assert isinstance(result.exception, RoadblocksError) and "unit/conv-2/road" in str(result.exception)


def test_figure_shows_what_was_measured(tmp_path):
    records = [
        {**asdict(row), "ours": 1 / (1 - row.sparsity), "machine": {"cpu": "?", "cores": 2}, "date": "2026-01-01"}
        for row in figure_rows()
    ]
    assert len(records) == 21
    low = [{**record, "ours": record["ours"] / 2} for record in records]
    for name, part in (("high.png", records), ("low.png", low)):
        draw_figure(part, tmp_path / name)
    high, low = (np.asarray(Image.open(tmp_path / name)) for name in ("high.png", "low.png"))
    assert high.shape == low.shape and (high != low).any()
