"""`roadblocks doctor`: every check on a machine that is ill in just that way."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from detector import doctor_command, doctor_gpu, doctor_network
from detector.cli import main
from detector.doctor import CHECKS, Finding, State, examine, report_json, worst
from detector.doctor_disk import can_be_written
from detector.doctor_gpu import check_gpu, gpu_finding, has_nvidia_device
from detector.doctor_kernels import check_threading_layer, problem_of, self_test
from detector.doctor_machine import check_machine, check_threads, cpu_quota
from detector.doctor_network import HASHES, check_detect, recorded_hashes, weights_findings
from detector.doctor_packages import OPTIONAL, check_packages, runtime_variants, unmet
from kernels.table import OPS
from models.network import network_folder
from tests.tiny_network import write_model


def same(value):
    return value


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(f"model: {write_model(tmp_path / 'tiny.onnx')}\n")
    return str(path)


def test_the_shipped_networks_are_those_that_were_recorded():
    folder = network_folder()
    recorded = recorded_hashes(folder / HASHES)
    assert set(recorded) == {path.name for path in folder.glob("*.onnx")}
    assert worst(weights_findings(folder, recorded)) is State.OK


def test_damaged_missing_and_unknown_networks(tmp_path):
    for name in ("good", "damaged", "new"):
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    sums = subprocess.run(["sha256sum", "good.onnx", "damaged.onnx"], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / HASHES).write_bytes(sums.stdout + b"0" * 64 + b" *missing.onnx\n")
    (tmp_path / "damaged.onnx").write_bytes(b"damage")
    found = {finding.name: finding for finding in weights_findings(tmp_path, recorded_hashes(tmp_path / HASHES))}
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "good.onnx": State.OK,
        "damaged.onnx": State.FAILURE,
        "missing.onnx": State.FAILURE,
        "new.onnx": State.WARNING,
    }
    assert all(finding.advice for finding in found.values() if finding.state is not State.OK)


def test_kernels_are_held_against_their_references():
    ops = [op for op in OPS if op.name in ("decode", "rotated_iou", "reduce_mask")]
    (finding,) = self_test(tuple(ops), "CPU", same, same, "advice")
    assert finding.state is State.OK and "3 operations" in finding.found


def test_a_kernel_that_is_wrong_or_fails_is_named():
    (op,) = (op for op in OPS if op.name == "rotated_iou")

    def off(**inputs):
        return op.reference(**inputs) + 0.01

    def not_a_number(**inputs):
        return op.reference(**inputs) * np.nan

    def fails(**inputs):
        raise RuntimeError("no such instruction")

    problems = [problem_of(replace(op, function=function), same, same) for function in (off, not_a_number, fails)]
    assert "by 0.01, expected at most" in problems[0] and "by inf" in problems[1]
    assert problems[2] == "RuntimeError: no such instruction"
    (finding,) = self_test((replace(op, function=off),), "GPU", same, same, "use --device cpu")
    assert (finding.name, finding.state, finding.advice) == ("rotated_iou, GPU", State.FAILURE, "use --device cpu")


def test_a_check_that_breaks_is_a_finding():
    checks = [("a", "no_such_module", "check_a"), ("b", "detector.doctor_machine", "check_machine")]
    first, *others = examine("kitti", checks)
    assert first.state is State.FAILURE and "ModuleNotFoundError" in first.found and first.advice
    assert others and others[0].topic == "machine"


def test_without_optional_packages_nothing_fails(monkeypatch, config):
    for name in ("onnxruntime", "open3d", "rerun", "torch", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("detector.doctor_packages.version_of", lambda name: None if name in OPTIONAL else "99")
    checks = (check_machine, check_threads, check_gpu, check_packages, check_detect)
    found = [finding for check in checks for finding in check(config)]
    assert worst(found) is not State.FAILURE
    (optional,) = (finding for finding in found if finding.name == "optional")
    assert optional.found == "none" and all(f"extra '{extra}'" in optional.advice for _, extra in OPTIONAL.values())


def test_both_runtimes_at_once_are_told():
    versions = dict.fromkeys(OPTIONAL) | {"onnxruntime": "1.20"}
    assert list(runtime_variants(versions)) == []
    (finding,) = runtime_variants({**versions, "onnxruntime-gpu": "1.21"})
    assert finding.state is State.WARNING and "pip uninstall onnxruntime onnxruntime-gpu" in finding.advice


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("numpy>=1.26", None),
        ("numpy", None),
        ("numpy>=99.1", "expected 99.1 or newer"),
        ("no-such-package-of-ours>=1", "not installed"),
    ],
)
def test_requirements(requirement, problem):
    found = unmet(requirement)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None), ("nonsense\n", None)]
)
def test_limits_of_a_container(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cores
    assert cpu_quota(tmp_path / "absent") is None


def test_a_gpu_without_a_driver_is_told(tmp_path, monkeypatch):
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x1234", "0x030000"), ("2", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert has_nvidia_device(tmp_path)
    monkeypatch.setattr("kernels.gpu.cuda_driver_answers", lambda: False)
    monkeypatch.setattr(doctor_gpu, "PCI_DEVICES", tmp_path)
    (finding,) = check_gpu("kitti")
    assert finding.state is State.WARNING and "no driver answers" in finding.found
    (tmp_path / "0" / "vendor").write_text("0x8086\n")
    assert not has_nvidia_device(tmp_path), "NVIDIA's sound device computes nothing"
    (finding,) = check_gpu("kitti")
    assert finding.state is State.OK


def test_a_gpu_that_cannot_be_used_is_told(monkeypatch, config):
    monkeypatch.setattr("kernels.gpu.cuda_driver_answers", lambda: True)
    monkeypatch.setattr("kernels.launch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor_gpu, "nvidia_smi", lambda: ["NVIDIA H200, 575.10, 143771 MiB, 9.0"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    old, numba_cuda = check_gpu(config)
    assert old.state is State.WARNING and "wants driver 580" in old.advice
    assert numba_cuda.state is State.WARNING and "roadblocks[gpu]" in numba_cuda.advice
    assert gpu_finding("NVIDIA H200, 580.95.05, 143771 MiB, 9.0").state is State.OK
    assert gpu_finding("an unknown one, ?, ?, ?").state is State.OK


def test_a_threading_layer_that_bears_one_thread_is_told(monkeypatch):
    monkeypatch.setattr("numba.threading_layer", lambda: "workqueue")
    (finding,) = check_threading_layer("kitti")
    assert finding.state is State.WARNING and "tbb" in finding.advice


def test_folders_that_can_and_cannot_be_written(tmp_path):
    assert can_be_written(tmp_path) and can_be_written(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []
    assert not can_be_written(Path("/proc/self"))


def test_every_check_exists():
    for _, module, name in CHECKS:
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize(
    ("states", "code", "verdict"),
    [
        ([], 0, "ok"),
        ([State.OK, State.WARNING], 0, "warning"),
        ([State.FAILURE, State.WARNING, State.OK], 2, "failure"),
    ],
)
def test_exit_codes_and_json(monkeypatch, tmp_path, states, code, verdict):
    findings = [Finding("topic", f"line {n}", "found [this]", state, "do that") for n, state in enumerate(states)]
    monkeypatch.setattr(doctor_command, "examine", lambda config: iter(findings))
    result = CliRunner().invoke(main, ["doctor", "--json", str(tmp_path / "report.json")])
    assert result.exit_code == code
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == verdict and {"machine", "versions", "revision", "date"} <= set(report)
    assert [line["state"] for line in report["findings"]] == [state.value for state in states]
    assert result.stdout.count("do that") == len(states) and result.stdout.count("found [this]") == len(states)
    alone = CliRunner().invoke(main, ["doctor", "--json", "-"])
    assert json.loads(alone.stdout)["verdict"] == report_json(findings)["verdict"] == verdict


def test_a_damaged_network_keeps_detect_from_running(monkeypatch, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    (tmp_path / "own.yaml").write_text(f"model: {tmp_path / 'broken.onnx'}\n")
    found = list(examine(str(tmp_path / "own.yaml"), [("network", doctor_network.__name__, "check_weights")]))
    assert worst(found) is State.FAILURE and "not a readable ONNX file" in found[-1].found
