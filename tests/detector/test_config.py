"""Configuration: shipped files load, only what differs, every mistake is named."""

import os

import pytest

from detector.config import Config, config_folder, from_mapping, load_config
from detector.errors import ConfigError


def test_shipped_configurations_load():
    files = list(config_folder().glob("*.yaml"))
    assert "kitti" in {file.stem for file in files}
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
        ("score: " + "9" * 400, r"score is 9+\.\.\.9+, expected float, at most 1e\+15"),
        ("nms: {max_boxes: 1" + "0" * 30 + "}", "expected int, at most"),
        ("score: " + ":".join("1" * 3000), "score is a number of thousands of digits, expected float"),  # base 60
        ("model: 0x" + "f" * 50_000, "model is a number of thousands of digits, expected"),
        ("score: -.inf", "score is -inf, expected float, at most"),
        ("score: .nan", "score is nan, expected 0 to 1"),
        ("model: " + "[" * 90 + "]" * 90, r"model is \[{7}\.\.\.\]{7}, expected str"),
        ("? " + "k" * 90_000 + "\n: 1", r"unknown key 'kkk.*\.\.\.kkk.*'; expected one of"),
        ("score: !!timestamp yesterday", "not a readable YAML file"),
        ("score: !!float ''", "not a readable YAML file"),
        ("score: !!bool perhaps", "not a readable YAML file"),
        ("model: !!python/object/apply:os.system [ls]", "not a readable YAML file"),
    ],
)
def test_mistakes(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        # Each line unfolds to nine times the one before it, as values and as merged keys.
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)),
        "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)),
        "score: &s 0.5\nnms: &n {iou: *s}\n",
        "&a [*a]",
    ],
)
def test_aliases_are_refused_before_they_unfold(tmp_path, text):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bomb\.yaml: not a readable YAML file: alias \*\w+; expected") as caught:
        load_config(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".yaml", "a\0.yaml", "/dev/zero.yaml/x"])
def test_names_that_are_none(name):
    with pytest.raises(ConfigError, match=r"no such configuration|not a readable YAML file"):
        load_config(name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_text("model: Straße\n", encoding=encoding)
    if encoding.startswith("utf-8"):
        assert load_config(path).model == "Straße"
    else:
        with pytest.raises(ConfigError, match=r"not a readable YAML file: .*codec can't decode"):
            load_config(path)


def test_no_device_and_no_pipe_is_read(tmp_path):
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("zero", "pipe"):
        with pytest.raises(ConfigError, match="no regular file"):
            load_config(tmp_path / f"{name}.yaml")


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
    assert load_config("train/recorded", train.TrainConfig).steps > 0
