"""The house rules that a machine can hold: which package may import which, and what inference never imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each package may import itself and what stands to its right.
ORDER = ("tests", "tools", "detector", "models", "kernels")
KERNEL_IMPORTS = {"kernels", "numpy", "numba", "llvmlite"}
CUDA_MODULES = {"launch.py", "ptx.py"}  # that target's home is moving: only these may know where it is


def imported(path):
    """Top-level names of every module a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def files(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package):
    forbidden = set(ORDER[: ORDER.index(package)])
    for path in files(package):
        assert not forbidden & set(imported(path)), path


def test_kernels_import_numpy_and_numba_only():
    for path in files("kernels"):
        allowed = KERNEL_IMPORTS | ({"cuda"} if path.name in CUDA_MODULES else set())
        outside = set(imported(path)) - allowed - set(sys.stdlib_module_names)
        assert not outside, (path, outside)


def test_numba_cuda_is_imported_in_one_place():
    for path in files("kernels"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "numba"
            for alias in node.names
        }
        assert "cuda" not in names or path.name in CUDA_MODULES, path


@pytest.mark.parametrize("package", ["detector", "models", "kernels"])
def test_inference_never_imports_torch(package):
    for path in files(package):
        assert "torch" not in set(imported(path)), path


def test_open3d_is_imported_only_inside_its_reader():
    code = "import sys, detector.run, detector.view_command; sys.exit(bool({'open3d', 'rerun'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    users = [
        path.name for package in ("detector", "models") for path in files(package) if "open3d" in set(imported(path))
    ]
    assert users == ["point_files.py"]


@pytest.mark.parametrize("package", ["detector", "models", "kernels"])
def test_no_print_and_no_bare_except(package):
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), path
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), path


def test_every_test_asserts():
    for path in files("tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                parts = list(ast.walk(node))
                calls = {getattr(c.func, "attr", getattr(c.func, "id", "")) for c in parts if isinstance(c, ast.Call)}
                checks = any(isinstance(part, ast.Assert) for part in parts)
                assert checks or any(name.startswith(("assert", "raises", "check")) for name in calls), (
                    path,
                    node.name,
                )
