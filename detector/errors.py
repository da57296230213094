"""Errors a user can cause, and the exit codes of the command line (one table, read by the CLI and its docs)."""

from __future__ import annotations

from enum import IntEnum

from models.errors import MissingExtraError, ModelError, RoadblocksError

__all__ = [
    "ConfigError",
    "ExitCode",
    "FrameError",
    "LabelError",
    "MissingExtraError",
    "ModelError",
    "RoadblocksError",
    "SourceError",
]


class ConfigError(RoadblocksError):
    """A configuration file or option that is unknown, of the wrong type or out of range."""


class SourceError(RoadblocksError):
    """A SOURCE that is missing, empty or of no known layout."""


class FrameError(RoadblocksError):
    """One bad frame: truncated, wrong type, too many NaN. The run may go on without it."""


class LabelError(RoadblocksError):
    """A label or calibration file that cannot be read, or label folders that do not match."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0  # all frames good
    SKIPPED_FRAMES = 1  # finished, some frames skipped
    FAILED = 2  # nothing could start, all frames bad, wrong usage, or stopped by --on-error stop
    REGRESSION = 3  # `profile --compare` found a regression
    INTERRUPTED = 130  # Ctrl-C
