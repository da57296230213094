"""Errors a user can cause, and the exit codes of the command line (one table, read by the CLI and its docs)."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from models.errors import MissingExtraError, ModelError, RoadblocksError

__all__ = [
    "ConfigError",
    "ExitCode",
    "FrameError",
    "FrameFault",
    "LabelError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "RoadblocksError",
    "SourceError",
]


class ConfigError(RoadblocksError):
    """A configuration file or option that is unknown, of the wrong type or out of range."""


class SourceError(RoadblocksError):
    """A SOURCE that is missing, empty or of no known layout."""


class OutputError(RoadblocksError):
    """A file that cannot be written: disk full, a read-only folder, another run at work in it."""


class FrameFault(StrEnum):
    """What can be wrong with a frame; runs count these."""

    # The frame is refused.
    UNREADABLE = "unreadable"  # no file, no permission, no file of points
    TRUNCATED = "truncated"
    TOO_MANY = "too many points"
    NOT_FINITE = "not finite"  # too large a share of NaN and infinity
    INTENSITY = "intensity"  # no scale in use
    CALIBRATION = "calibration"
    ARRAY = "array"  # from the API: wrong type, dtype or shape
    # The frame is used, with a warning.
    EMPTY = "no points"
    DROPPED = "points dropped"  # a few NaN and infinities
    CLIPPED = "intensity clipped"
    SCALED = "intensity scaled"
    NOT_METRES = "not metres"
    AXES = "axes swapped"
    OUTSIDE = "outside the grid"


class FrameError(RoadblocksError):
    """One bad frame: truncated, wrong type, too many NaN. The run may go on without it.

    Attributes:
        fault: its kind.
    """

    def __init__(self, message: str, fault: FrameFault = FrameFault.UNREADABLE) -> None:
        super().__init__(message)
        self.fault = fault


class LabelError(RoadblocksError):
    """A label or calibration file that cannot be read, or label folders that do not match."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0  # all frames good
    SKIPPED_FRAMES = 1  # finished, some frames skipped
    FAILED = 2  # nothing could start, all frames bad, wrong usage, or stopped by --on-error stop
    REGRESSION = 3  # `profile --compare` found a regression
    INTERRUPTED = 130  # Ctrl-C
