"""`--device` of the commands that compute: one clear line where no GPU will do, and `auto` goes on, on the CPU."""

import importlib.util

import pytest
from click.testing import CliRunner

from detector.cli import main
from kernels.launch import SIMULATED
from tests.tiny_network import patch_points, write_model

pytestmark = pytest.mark.skipif(SIMULATED, reason="there a GPU is found")
TUNE = pytest.param("tune", marks=pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="slow"))
REASONS = {
    "driver": "no NVIDIA driver answers, or it sees no GPU; check nvidia-smi",
    "version": "the driver is too old: it runs CUDA 12.4, the compiler here makes code for CUDA 13.1; update it",
    "card": "V100 has compute capability 7.0, expected at least 7.5",
    "memory": "",  # found out later
}


@pytest.fixture(params=REASONS)
def why(request, monkeypatch):
    """A machine whose GPU will not do, and the words that say why."""
    monkeypatch.setattr("models.sparse_cuda.gpu_problem", lambda: REASONS[request.param])
    monkeypatch.setattr("models.sparse_cuda.gpu_name", lambda: "Card")
    monkeypatch.setattr("models.tuning.gpu_name", lambda: "Card")
    monkeypatch.setattr("models.sparse_cuda.capability", lambda: (8, 0))
    monkeypatch.setattr("models.sparse_cuda.free_bytes", lambda: 5e6)
    return REASONS[request.param] or "Card has 5 MB free, expected 200 MB for tiny"


@pytest.fixture
def drive(tmp_path):
    (tmp_path / "tiny.yaml").write_text(f"model: {write_model(tmp_path / 'tiny.onnx')}\n")
    (tmp_path / "drive").mkdir()
    patch_points().tofile(tmp_path / "drive" / "0.bin")
    return tmp_path


def invoke(command, drive, device):
    out = ["-o", str(drive / "out")] if command == "detect" else []
    words = [command, str(drive / "drive"), *out, "--config", str(drive / "tiny.yaml"), "--device", device]
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("command", ["detect", "stream", TUNE])
def test_cuda_without_a_fit_gpu_is_one_line(command, drive, why):
    done = invoke(command, drive, "cuda")
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    (told,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert told.startswith(f"error: device cuda: {why}") and told.endswith("or use --device cpu")


@pytest.mark.parametrize("command", ["detect", "stream"])
def test_auto_goes_on_on_the_cpu(command, drive, why):
    done = invoke(command, drive, "auto")
    assert done.exit_code == 0, done.output
    assert "error" not in done.stderr
    assert ("everything runs on the CPU" in done.stderr) == ("5 MB free" in why), "a GPU that is full is worth a line"


def test_profile_says_so_too(drive):
    """Its pipelines are in processes of their own, so only what this machine lacks can be tried."""
    from kernels.gpu import cuda_driver_answers

    if cuda_driver_answers():
        pytest.skip("a GPU is here")
    done = invoke("profile", drive, "cuda")
    assert done.exit_code == 2 and f"device cuda: {REASONS['driver']}" in done.stderr
