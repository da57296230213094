"""A network file: one ONNX file holds the weights and, in its metadata, what the pipeline must know about them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import onnx

from models.errors import ModelError
from models.grid import BevSpec

METADATA_KEY = "roadblocks"
MAX_FILE_BYTES = 500_000_000
MAX_NAME = 100

# Where the ground is in the LiDAR frame of networks that do not say so: all were trained on KITTI, whose LiDAR stands
# 1.73 m above it (Geiger et al., "Vision meets robotics", IJRR 2013), or on simulated frames of the same mounting.
KITTI_GROUND_Z_M = -1.73
INPUT_NAME, SCORE_NAME, REGRESSION_NAME = "grid", "score", "regression"


@dataclass(frozen=True)
class NetworkInfo:
    """What a network says about itself.

    Attributes:
        name: short name.
        grid: the BEV grid that it was trained on and expects.
        output_stride: grid cells per output cell.
        classes: names of what it finds.
        display_score: score of best F1; pictures and streams show boxes from here on.
        licence: of the weights, with that of their training data.
        training: free facts on the training: data, steps, seed, revision, date.
        ap: average precision on the validation frames, as `detector.evaluate` gives it.
        ground_z_m: where the ground lay in the points that it was trained on [m, LiDAR frame].
    """

    name: str
    grid: BevSpec
    output_stride: int
    classes: tuple[str, ...]
    display_score: float
    licence: str
    training: Mapping[str, Any] = field(default_factory=dict)
    ap: Mapping[str, Any] = field(default_factory=dict)
    ground_z_m: float = KITTI_GROUND_Z_M

    def __post_init__(self) -> None:
        numbers = isinstance(self.output_stride, int) and isinstance(self.display_score, int | float)
        if not numbers or self.output_stride < 1 or not 0 <= self.display_score <= 1:
            raise ModelError(
                f"network metadata: output_stride {self.output_stride!r}, display_score {self.display_score!r}; "
                "expected a whole number of at least 1, and 0..1"
            )
        if not isinstance(self.ground_z_m, int | float) or not math.isfinite(self.ground_z_m):
            raise ModelError(f"network metadata: ground_z_m is {self.ground_z_m!r}, expected a number of metres")
        # The name becomes part of a file's.
        if not isinstance(self.name, str) or not self.name.isprintable() or set(self.name) & set("/\\"):
            raise ModelError(f"network metadata: name is {str(self.name)[:100]!r}, expected a plain name")
        if not 0 < len(self.name) <= MAX_NAME:
            raise ModelError(f"network metadata: name of {len(self.name)} letters, expected 1 to {MAX_NAME}")
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ModelError(f"network metadata: classes are {self.classes!r}, expected at least one name")

    def to_json(self) -> str:
        """The text stored in the ONNX file."""
        return json.dumps({**asdict(self), "grid": self.grid.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> NetworkInfo:
        """The info from `to_json`'s text.

        Raises:
            ModelError: if the text is no JSON object or lacks a field.
        """
        try:
            values = json.loads(text)
            values["grid"] = BevSpec.from_dict(values["grid"])
            values["classes"] = tuple(values["classes"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error)[:300]
            raise ModelError(f"network metadata: {reason}; expected the fields of NetworkInfo as JSON") from error


@dataclass(frozen=True)
class Network:
    """An ONNX file that was read and checked."""

    path: Path
    content: bytes
    info: NetworkInfo

    @property
    def sha256(self) -> str:
        """Hash of the file, for the record of a run."""
        return hashlib.sha256(self.content).hexdigest()


def network_folder() -> Path:
    """Where the shipped networks lie."""
    return Path(str(resources.files("models")))


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a protobuf message: of the graph, of its nodes' attributes, of graphs in those."""
    for kind, value in message.ListFields():
        if kind.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if isinstance(part, onnx.TensorProto):
                yield part
            yield from _tensors(part)


def load_network(name_or_path: str | Path) -> Network:
    """The network of a shipped name ("kitti") or of an ONNX file.

    Raises:
        ModelError: if the file is missing, no ONNX, has external data, or lacks the metadata.
    """
    path = Path(name_or_path)
    if path.suffix != ".onnx":
        path = network_folder() / f"{name_or_path}.onnx"
    try:
        if not path.is_file():
            shipped = ", ".join(sorted(file.stem for file in network_folder().glob("*.onnx") if "." not in file.stem))
            raise ModelError(f"{name_or_path}: no such network; expected an .onnx file or one of: {shipped}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{str(path)[:300]}: cannot be read ({error.strerror}); expected an .onnx file") from error
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf raises its own unrelated classes
        raise ModelError(f"{path}: not a readable ONNX file ({type(error).__name__})") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(model)):
        raise ModelError(f"{path}: keeps weights in other files; expected all of them inside the ONNX file")
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in texts:
        raise ModelError(f"{path}: no '{METADATA_KEY}' metadata; expected a network exported by tools.train")
    try:
        return Network(path, content, NetworkInfo.from_json(texts[METADATA_KEY]))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
