"""Configuration: frozen dataclasses with every default, YAML that names only what differs.

Unknown keys are errors at every level, with a suggestion; YAML is loaded safely (no tags, no objects).
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from detector.errors import ConfigError
from detector.files import read_small

T = TypeVar("T")

EXECUTIONS = ("sparse", "dense")

# A configuration is a page of text; a larger file is something else, or meant to exhaust memory.
MAX_FILE_BYTES = 100_000

MAX_BUDGET_MS = 1e6
MAX_HEIGHT_M = 100.0
MAX_INTENSITY_SCALE = 1e6
MAX_NUMBER = 1e15  # of any value: beyond, floats and the kernels' integers give up


@dataclass(frozen=True)
class SensorConfig:
    """How the points reach the pipeline."""

    # Keep only what the camera sees, where there is a calibration. None: for networks that look ahead only, because
    # they were trained so.
    crop_to_camera: bool | None = None
    height_m: float | None = None  # of the points' origin above the ground; None: as the network was trained
    intensity_scale: float = 1.0  # factor that makes intensities span 0..1

    def crops(self, all_round: bool) -> bool:
        """Whether a network, one that looks all round or not, gets only what the camera sees."""
        return not all_round if self.crop_to_camera is None else self.crop_to_camera


@dataclass(frozen=True)
class MaskConfig:
    """Which part of the grid is computed."""

    source: str = "auto"  # or one of models.masks.SOURCES; auto: what measured best, of what the model has
    threshold: float | None = None  # of the source's values; None: its measured default, see models.masks.LIMITS
    margin_m: float | None = None  # computed around the mask, because the network looks beyond an object; likewise


@dataclass(frozen=True)
class BudgetConfig:
    """How much a frame may cost; the first active tiles run, the others are left out. None: no limit."""

    tiles: int | None = None  # active tiles that run at most
    ms: float | None = None  # load to nms, milliseconds; how many tiles that is, is learned on the way


@dataclass(frozen=True)
class NmsConfig:
    """Rotated-IoU non-maximum suppression, and the vote of the candidates that fall to it."""

    iou: float = 0.1  # boxes overlapping a better one by more are dropped; cars do not overlap
    max_candidates: int = 2000  # best-scoring cells that enter
    max_boxes: int = 200  # boxes that leave
    voting_iou: float = 0.5  # candidates that overlap a kept box by more move it; 1: none do


@dataclass(frozen=True)
class Config:
    """Everything that can be set; `configs/*.yaml` and the command line override the defaults."""

    model: str = "kitti"  # a shipped network's name or the path of an ONNX file
    device: str = "auto"
    precision: str = "auto"  # on CUDA: float32, float16, or auto: float16 where the GPU's tensor cores can
    cuda_graph: bool = True  # on CUDA: the kernels of a frame's network are launched as one, where the driver can
    execution: str = "sparse"  # or "dense": the whole grid through onnxruntime
    score: float = 0.05  # boxes below are not written; average precision needs the tail
    sensor: SensorConfig = field(default_factory=SensorConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    nms: NmsConfig = field(default_factory=NmsConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"score is {self.score}, expected 0 to 1")
        if self.execution not in EXECUTIONS:
            raise ConfigError(f"execution is '{self.execution}', expected one of: {', '.join(EXECUTIONS)}")
        if self.sensor.height_m is not None and not abs(self.sensor.height_m) <= MAX_HEIGHT_M:
            raise ConfigError(
                f"sensor.height_m is {self.sensor.height_m}, expected at most {MAX_HEIGHT_M:g} up or down"
            )
        if not 0 < self.sensor.intensity_scale <= MAX_INTENSITY_SCALE:
            raise ConfigError(
                f"sensor.intensity_scale is {self.sensor.intensity_scale}, "
                f"expected more than 0 and at most {MAX_INTENSITY_SCALE:g}"
            )
        if self.mask.margin_m is not None and not 0 <= self.mask.margin_m <= 100:
            raise ConfigError(f"mask.margin_m is {self.mask.margin_m}, expected 0 to 100")
        if self.budget.tiles is not None and self.budget.tiles < 1:
            raise ConfigError(f"budget.tiles is {self.budget.tiles}, expected at least 1")
        if self.budget.ms is not None and not 0 < self.budget.ms <= MAX_BUDGET_MS:
            raise ConfigError(f"budget.ms is {self.budget.ms}, expected more than 0 and at most {MAX_BUDGET_MS:g}")
        if self.execution == "dense" and self.budget != BudgetConfig():
            raise ConfigError("budget: a dense frame has no tiles to leave out; expected execution sparse")
        for name, iou in (("iou", self.nms.iou), ("voting_iou", self.nms.voting_iou)):
            if not 0 <= iou <= 1:
                raise ConfigError(f"nms.{name} is {iou}, expected 0 to 1")
        if min(self.nms.max_candidates, self.nms.max_boxes) < 1:
            raise ConfigError("nms.max_candidates and nms.max_boxes: expected at least 1")


def config_folder() -> Path:
    """Where the shipped configurations lie."""
    return Path(str(resources.files("configs")))


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Safe YAML without aliases: nobody needs them for a page of settings, and nested ones unfold into gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"alias *{self.peek_event().anchor}; expected every value written out")
        return super().compose_node(parent, index)


def load_config(name_or_path: str | Path, cls: type[T] = Config) -> T:  # type: ignore[assignment]
    """The configuration of a shipped name ("kitti") or a YAML file, checked key by key.

    Raises:
        ConfigError: if there is no such file, it is no YAML mapping, or a key or value is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_folder() / f"{name_or_path}.yaml"
    try:
        values = yaml.load(read_small(path, MAX_FILE_BYTES).decode("utf-8-sig"), _PlainLoader)
    except (FileNotFoundError, NotADirectoryError) as error:
        shipped = ", ".join(sorted(file.stem for file in config_folder().glob("*.yaml")))
        raise ConfigError(
            f"{name_or_path}: no such configuration; expected a .yaml file or one of: {shipped}"
        ) from error
    except Exception as error:  # what PyYAML's constructors stumble over, they raise as it comes
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: not a readable YAML file: {reason}") from error
    return from_mapping(cls, {} if values is None else values, str(path))


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from nested plain values; ``where`` names the origin in errors.

    Raises:
        ConfigError: if a key is unknown, or a value has another type than the field.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected keys and values")
    types_of = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(_shown(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"expected one of: {', '.join(sorted(known))}"
            raise ConfigError(f"{where}: unknown key {_shown(key)}; {hint}")
        checked[key] = _checked(types_of[key], value, f"{where}: {key}")
    return cls(**checked)


def _checked(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return from_mapping(typing.cast(type, kind), value, where)
    if isinstance(kind, types.UnionType):
        return None if value is None else _checked(typing.get_args(kind)[0], value, where)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {_shown(value)}, expected a list")
        return tuple(_checked(inner, item, where) for item in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) > MAX_NUMBER:
        raise ConfigError(f"{where} is {_shown(value)}, expected {kind.__name__}, at most {MAX_NUMBER:g}")
    if kind is float and is_number:
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} is {_shown(value)}, expected {kind.__name__}")
    return value


def _shown(value: Any) -> str:
    """A value in a message, of bearable length."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"
