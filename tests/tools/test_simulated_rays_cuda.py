"""The ray caster's CUDA kernels: equal to the CPU in Numba's simulator, and compiled for two GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detector.errors import ConfigError
from kernels.launch import cuda
from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.op import CudaKernel
from tools.simulation import raycast_cuda
from tools.simulation.drive import simulate_drive
from tools.simulation.raycast_cuda import CAST_SIGNATURE, LIST_SIGNATURE, cast_cuda, cast_kernel, list_kernel

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_equals_cpu(device, monkeypatch):
    from tests.tools.simulated_scenes import level_rays
    from tools.simulation.materials import Material
    from tools.simulation.raycast import cast
    from tools.simulation.scene import build_scene, build_way
    from tools.simulation.solids import Solids, box, crown, cylinder, ellipsoid
    from tools.simulation.surface import Surface

    rng = np.random.default_rng(1)
    height = (0.05 * rng.standard_normal((120, 120))).astype(np.float32)
    ground = Surface(np.full(2, -12.0), 0.2, height, rng.integers(0, 5, height.shape).astype(np.uint8))
    parts = [
        box((6, 0, 0), (2, 3, 1), Material.GLASS, 1.0, 0.3),
        box((9, 0, 0), (1, 9, 3), Material.BRICK),
        cylinder((4, 2, 0), 0.4, 1.5, Material.BARK),
        crown((-5, 1, 1.5), 1.5, 1.0),
        ellipsoid((0, -5, 1), (1.5, 0.5, 0.8), Material.CLOTH, 1.0, 0.5),
    ]
    solids = Solids.join(parts)
    motion = rng.normal(0, 3, (len(solids), 3))
    rays = level_rays(np.linspace(-3.1, 3.1, 14), [-0.3, -0.12, 0.01], (0.1, 0.2, 1.8))
    rays = rays._replace(time=np.linspace(-0.05, 0.05, 14))
    scene = build_scene(solids, motion, ground, np.zeros(2), 30.0)
    way = build_way(scene, rays, 2e-3, 25.0, 3)
    monkeypatch.setattr(raycast_cuda, "_ROOM", 1)  # lists grow
    expected, found = cast(scene, rays, way), cast_cuda(scene, rays, way)
    assert len(set(expected.hit.ravel().tolist())) >= 8, "the scene has a bit of everything"
    assert np.array_equal(found.hit, expected.hit) and np.array_equal(found.first, expected.first)
    np.testing.assert_allclose(found.range_m, expected.range_m, atol=1e-4)
    np.testing.assert_allclose(found.cosine, expected.cosine, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sweep_is_that_of_the_cpu(device):
    from tests.tools.simulated_scenes import quiet_sensor, world_of
    from tools.simulation.materials import Material
    from tools.simulation.solids import box
    from tools.simulation.sweep import sweep

    world = world_of(box((5, 0, 0), (1, 8, 3), Material.BRICK))
    sensor = quiet_sensor([-30.0, 0.0], rays_per_turn=12)
    expected, found = (sweep(sensor, world, 0.0, np.random.default_rng(1), device=name) for name in ("cpu", "cuda"))
    np.testing.assert_allclose(found.points[:, :3], expected.points[:, :3], atol=1.1e-3)
    np.testing.assert_allclose(found.points[:, 3], expected.points[:, 3], atol=0.011)
    assert np.array_equal(found.ring, expected.ring) and len(set(found.ring.tolist())) == 2


@pytest.mark.skipif(cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_device_is_refused():
    with pytest.raises(ConfigError, match="no GPU answers here"):
        simulate_drive(1, 0, device="cuda")
    with pytest.raises(ConfigError, match="expected cpu or cuda"):
        simulate_drive(1, 0, device="tpu")


def test_simulator_case_passes():
    """In a process of its own: the simulator is chosen before the first import."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-m", "simulator", str(Path(__file__))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and re.search(r"2 passed", done.stdout), done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("signature", [LIST_SIGNATURE, CAST_SIGNATURE], ids=["list", "cast"])
def test_machine_code(signature, capability):
    if "CI" not in os.environ:  # there a missing compiler is a failure
        pytest.importorskip("cuda.core", reason="numba-cuda with NVVM and nvJitLink is not installed: extra 'test'")
    kernel = CudaKernel(list_kernel if signature == LIST_SIGNATURE else cast_kernel, signature, float64=True)
    code = compile_kernel(kernel, capability)
    assert code.cubin[:4] == b"\x7fELF" and code.spill_bytes == 0
    assert code.uses_float64, "meant: grazing rays are quotients of small differences"
