"""`python -m tools.benchmark`: kernels, machine code and the page that is written from the kernel table."""

import json
import re
from importlib import metadata

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from detector import paired
from detector.errors import MissingExtraError, RoadblocksError
from kernels.table import OPS
from kernels.voxelize import voxelize_reference
from models.masks import LIMITS
from models.network import SCORE_NAME, load_network
from tools.benchmark import claims, docs, pages, timing
from tools.benchmark.__main__ import COMMANDS, main
from tools.benchmark.claims import GRID, Claim, read_frames
from tools.benchmark.kernel_times import MAPS_MOVED
from tools.benchmark.numpy_voxelize import CLEARINGS, WAYS, NumpyVoxelizer
from tools.benchmark.ptx import check_compiler
from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object

PAGE = (pages.ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


def invoke(*words):
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def documented(section):
    """The keys that a paragraph of the page names."""
    paragraph = re.search(rf"^- `{section}`, a list of (.*?)[;.]$", PAGE, re.M | re.S) or re.search(
        rf"`{section}`, a list of (.*?), and `machine`", PAGE, re.S
    )
    return set(re.findall(r"`(\w+)`", paragraph[1]))


@pytest.mark.parametrize("section", docs.SECTIONS, ids=lambda section: f"{section[0].name}-{section[1]}")
def test_pages_hold_the_tables_of_the_records(section):
    file, name, make = section
    page = file.read_text(encoding="utf-8")
    assert docs.render(page, name, make(), file) == page, "run python -m tools.benchmark docs --write"


def test_the_page_has_all_ops():
    assert all(f"| `{op.name}` |" in PAGE for op in OPS)


def test_an_old_page_is_told_and_written(tmp_path, monkeypatch):
    page = tmp_path / "kernels.md"
    page.write_text(PAGE.replace("sparse_gather", "sparse_collect"))
    monkeypatch.setattr(docs, "SECTIONS", [(page, "ops", docs.op_rows)])
    assert CliRunner().invoke(main, ["docs"]).exit_code == 2
    invoke("docs", "--write")
    invoke("docs")
    assert docs.op_rows() in page.read_text() and "sparse_collect" in page.read_text(), "only the table is written"
    with pytest.raises(RoadblocksError, match="no place for its section"):
        docs.render("# Kernels", "ops", "", page)


def test_accuracy_of_the_shipped_network(tmp_path, monkeypatch):
    monkeypatch.setattr(paired, "DRAWS", 20)
    write_object(tmp_path, simulate_drive(2, seed=0))
    (tmp_path / "split.txt").write_text("000001\n")
    words = ("accuracy", str(tmp_path), "--split", str(tmp_path / "split.txt"), "--margin", "0", "--margin")
    assert CliRunner().invoke(main, [*words, "200"]).exit_code == 2, "100 m at most"
    record = json.loads(invoke(*words, "100", "--json", "-"))
    dense, default, tight, wide = record["runs"]
    assert dense["execution"] == "dense" and record["frames"] == 1
    limits = LIMITS[default["mask"]["source"]]
    assert [run["mask"]["margin_m"] for run in (default, tight, wide)] == [limits.margin_m, 0, 100]
    assert 0 < tight["tile_fraction"] < wide["tile_fraction"] == 1
    assert wide["ap"]["bev"]["R40"] == pytest.approx(dense["ap"]["bev"]["R40"], abs=0.01)
    assert wide["difference"]["bev"]["points"] == 0


def test_ablations_are_held_against_the_first(tmp_path, monkeypatch):
    """A network that finds nothing against the shipped one."""
    monkeypatch.setattr(paired, "DRAWS", 20)
    write_object(tmp_path, simulate_drive(2, seed=0))
    shipped = load_network("kitti").path
    blind = onnx.load(str(shipped))
    heads = {name for node in blind.graph.node if SCORE_NAME in node.output for name in node.input}
    for tensor in blind.graph.initializer:
        if tensor.name in next(node.input for node in blind.graph.node if set(node.output) & heads):
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), -1), tensor.name))
    onnx.save(blind, str(tmp_path / "blind.onnx"))
    names = {"shipped": shipped, "blind": tmp_path / "blind.onnx"}
    words = [word for name, file in names.items() for word in ("--network", f"{name}={file}")]
    record = json.loads(invoke("ablations", str(tmp_path), *words, "--json", "-"))
    rows = {(each["name"], each["execution"]): each for each in record["rows"]}
    assert list(rows) == [(name, execution) for name in names for execution in ("dense", "sparse")]
    full = rows["shipped", "sparse"]["ap"]["bev"]
    assert full > 5 and "difference" not in rows["shipped", "sparse"]
    assert rows["blind", "sparse"]["difference"]["bev"]["points"] == pytest.approx(-full)
    done = CliRunner().invoke(main, ["ablations", str(tmp_path), "--network", "kitti.onnx"])
    assert done.exit_code == 2 and "expected NAME=ONNX" in done.output


def test_kernels(monkeypatch):
    monkeypatch.setattr(claims, "MAP", (1, 48, 64, 8))
    words = ("kernels", "--ops", "sparse_*", "--scale", "small", "--seconds", "0.001", "--rounds", "1", "--json", "-")
    record = json.loads(invoke(*words))
    assert [row["name"] for row in record["ops"]] == [op.name for op in OPS if op.name.startswith("sparse_")]
    for row in record["ops"]:
        assert set(row) == documented("ops")
        assert 0 < row["cpu_p50_ms"] <= row["cpu_p95_ms"] and row["reference_ms"] > 0 and row["runs"] >= 5
        assert row["gb_per_s"] == pytest.approx(row["megabytes"] / row["cpu_p50_ms"])
    assert [claim["name"].split()[0] for claim in record["claims"]] == ["voxelize"] * 3 + ["gather", "reduce_mask"]
    for claim in record["claims"]:
        assert set(claim) == documented("claims")
        assert claim["ours_ms"] > 0 and claim["baseline_ms"] > 0 and claim["ratio"] > 0
    others = re.search(r"^- `device`, (.*)\.$", PAGE, re.M)[0]
    assert set(record) == {"ops", "claims", *re.findall(r"`(\w+)`", others)}


def test_an_unknown_op_is_told():
    for command in ("kernels", "ptx"):
        result = CliRunner().invoke(main, [command, "--ops", "sparce_*"])
        assert result.exit_code == 2 and "sparse_gather" in result.stderr


def test_ptx():
    pytest.importorskip("cuda.core", reason="numba-cuda with NVVM and nvJitLink is not installed: extra 'test'")
    rows = json.loads(invoke("ptx", "--ops", "sparse_gather", "--json", "-"))["kernels"]
    assert [row["capability"] for row in rows] == ["sm_80", "sm_90"]
    for row in rows:
        assert set(row) == documented("kernels")
        assert row["ops"] == ["sparse_gather"] and 0 < row["registers"] <= 255 and row["spill_bytes"] == 0
    assert "sm_90" in invoke("ptx", "--ops", "sparse_gather")


def test_a_missing_compiler_is_asked_for_by_name(monkeypatch):
    def version(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(MissingExtraError, match=r"roadblocks\[test\]"):
        check_compiler()


@pytest.mark.parametrize("clearing", CLEARINGS)
@pytest.mark.parametrize("largest", WAYS)
def test_numpy_voxelizes_as_the_reference(largest, clearing):
    rng = np.random.default_rng(0)
    shape = (9, 12, 7)
    grid = ((0.0, -12.0, -1.4), 2.0, 0.4, shape)
    voxelizer = NumpyVoxelizer(*grid, largest, clearing)
    for size in (500, 3, 0, 700):
        points = rng.uniform((-3, -14, -3, -0.2), (20, 14, 2, 1), (size, 4)).astype(np.float32)
        points[rng.random(points.shape) < 0.02] = np.nan
        points[rng.random(points.shape) < 0.01] = np.inf
        points[:, 3] = np.where(np.isinf(points[:, 3]), 1, points[:, 3])
        assert np.array_equal(voxelizer(points), voxelize_reference(points, *grid)), size


def test_claims_are_met_on_the_right_side_of_their_bound():
    def claim(ratio, at_least):
        return Claim("x", "a", 1.0, "b", 2.0, ratio, 2.0, at_least)

    assert claim(2.5, True).met and not claim(1.5, True).met
    assert claim(1.5, False).met and not claim(2.5, False).met


def test_claims_want_whole_sweeps(tmp_path):
    np.zeros((50, 4), np.float32).tofile(tmp_path / "0.bin")
    with pytest.raises(RoadblocksError, match="no frame has 100,000 points"):
        read_frames(tmp_path, 3)
    np.zeros((100_000, 4), np.float32).tofile(tmp_path / "1.bin")
    frames, where = read_frames(tmp_path, 3)
    assert [len(frame.points) for frame in frames] == [100_000] and "1 largest" in where


def test_a_slow_reference_is_given_up():
    assert timing.reference_ms("sparse_gather", "small", 60) > 0
    assert timing.reference_ms("nms", "frame", 0.01) is None


def test_names():
    assert set(MAPS_MOVED) <= {op.name for op in OPS}
    assert all(main.get_command(None, name).name == name for name in COMMANDS)
    assert GRID[3] == (704, 800, 23)


def test_sweeps_are_timed_world_by_world():
    words = ("sweeps", "--sensor", "hdl32e", "--worlds", "2", "--frames", "1")
    record = json.loads(invoke(*words, "--json", "-"))
    assert record["sensor"]["beams"] == 32 and [row["seed"] for row in record["worlds"]] == [1, 2]
    assert all(min(row["sweep_ms"], row["frame_ms"], row["build_s"]) > 0 for row in record["worlds"])
    assert 1e3 / record["sweeps_per_s"] == pytest.approx(np.median([row["sweep_ms"] for row in record["worlds"]]), 0.01)
    assert "32 ×" in invoke(*words)
