"""Starting from an exported network: the same function, with batch norms to learn on."""

from dataclasses import replace

import numpy as np
import pytest

from detector.errors import ConfigError
from models.grid import BevSpec
from models.network import NetworkInfo
from tests.training_frames import frame_with_a_car
from tools.training.dataset import TrainingData
from tools.training.samples import SampleConfig, SampleMaker, WindowConfig

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roadblocks[train]'")

from tools.training.export import export_detector  # noqa: E402
from tools.training.initial import SAMPLES  # noqa: E402
from tools.training.trainer import NetworkConfig, TrainConfig, build_network, initial_weights, train  # noqa: E402

SPEC = BevSpec(x_max_m=12.8, y_min_m=-6.4, y_max_m=6.4)
SMALL = TrainConfig(
    steps=3,
    batch=2,
    grid=SPEC,
    network=NetworkConfig(widths=(8, 8, 16, 16), units=(1, 1, 1, 1)),
    samples=SampleConfig(window=WindowConfig(rows=64, cols=64)),
)


@pytest.fixture(scope="module")
def data():
    return TrainingData.of([frame_with_a_car(np.random.default_rng(seed)) for seed in range(2)], [])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A network that is not what it was at first, and its file."""
    folder = tmp_path_factory.mktemp("run")
    network = train(SMALL, data, folder).average.module.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 3)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.3)
    info = NetworkInfo("small", SPEC, 4, ("Car",), 0.5, "none", {}, {})
    export_detector(network, info, folder / "small.onnx")
    return network, folder / "small.onnx"


def grids(data):
    samples = SampleMaker(data, SPEC, SMALL.samples, SMALL.seed, SAMPLES)
    return torch.cat([torch.from_numpy(sample[0]).permute(2, 0, 1)[None] for sample in samples])


def test_the_function_is_the_exported_one(data, trained):
    network, file = trained
    started = build_network(SMALL)
    started.load_state_dict(initial_weights(file, SMALL, data))
    with torch.no_grad():
        found, expected = started.eval()(grids(data)), network(grids(data))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_batch_norms_have_the_statistics_of_samples(data, trained):
    """So that a step's own statistics, which training normalises by, hardly change the function."""
    _, file = trained
    started = build_network(SMALL)
    started.load_state_dict(initial_weights(file, SMALL, data))
    with torch.no_grad():
        usual, learning = started.eval()(grids(data)), started.train()(grids(data))
    for one, other in zip(learning, usual, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.std()))


def test_a_run_starts_from_it(data, trained, tmp_path):
    _, file = trained
    first = train(replace(SMALL, steps=1, learning_rate=0.0), data, tmp_path, init=file).average.module
    expected = initial_weights(file, SMALL, data)
    for name, value in first.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_another_network_is_refused(data, trained):
    wider = replace(SMALL, network=NetworkConfig(widths=(8, 8, 16, 32), units=(1, 1, 1, 1)))
    with pytest.raises(ConfigError, match=r"small.onnx: holds another network.*found network.stages.3.*expected \(32,"):
        initial_weights(trained[1], wider, data)
