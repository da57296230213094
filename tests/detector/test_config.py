"""Configuration: shipped files load, only what differs, every mistake is named."""

import pytest

from detector.config import Config, config_folder, from_mapping, load_config
from detector.errors import ConfigError


def test_shipped_configurations_load():
    files = list(config_folder().glob("*.yaml"))
    assert {"kitti"} <= {file.stem for file in files}
    for file in files:
        assert load_config(file.stem) == load_config(file)


def test_file_overrides_defaults(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("score: 1\nnms:\n  iou: 0.3\nsensor: {crop_to_camera: false}\n")
    config = load_config(path)
    assert config.score == 1.0 and isinstance(config.score, float)
    assert config.nms.iou == 0.3 and config.nms.max_boxes == Config().nms.max_boxes
    assert config.sensor.crop_to_camera is False and config.model == "kitti"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scroe: 0.1", "unknown key 'scroe'; did you mean 'score'"),
        ("nms: {max_boxs: 3}", "nms: unknown key 'max_boxs'; did you mean 'max_boxes'"),
        ("zzz: 1", "unknown key 'zzz'; expected one of"),
        ("score: high", "score is 'high', expected float"),
        ("score: true", "score is True, expected float"),
        ("score: 1.5", "score is 1.5, expected 0 to 1"),
        ("nms: {iou: -1}", "nms.iou is -1"),
        ("nms: {max_boxes: 0}", "expected at least 1"),
        ("nms: {max_boxes: 2.5}", "max_boxes is 2.5, expected int"),
        ("nms: 3", "nms: found int, expected keys and values"),
        ("- a", "found list"),
        ("a: [", "not a readable YAML file"),
        ("[" * 20_000, "not a readable YAML file"),
        ("score: " + "9" * 400, "integer of 400 digits"),
        ("model: !!python/object/apply:os.system [ls]", "not a readable YAML file"),
    ],
)
def test_mistakes(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_missing_and_huge(tmp_path):
    with pytest.raises(ConfigError, match=r"nosuch: no such configuration; expected a .yaml file or one of: .*kitti"):
        load_config("nosuch")
    path = tmp_path / "huge.yaml"
    path.write_text("#" * 200_000)
    with pytest.raises(ConfigError, match="200000 bytes"):
        load_config(path)


def test_lists_become_tuples():
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'roadblocks[train]'")
    from tools import train

    settings = from_mapping(train.TrainConfig, {"network": {"widths": [8, 16, 16, 16]}}, "here")
    assert settings.network.widths == (8, 16, 16, 16)
    with pytest.raises(ConfigError, match="widths is 3, expected a list"):
        from_mapping(train.TrainConfig, {"network": {"widths": 3}}, "here")
    assert load_config("train/kitti", train.TrainConfig).steps > 0
