"""The one base class of every error that a user's input can cause."""


class RoadblocksError(Exception):
    """Bad input, told in one line: the file, what was found, what was expected, what to do.

    The command line prints the message without a traceback; the API raises it.
    """


class ModelError(RoadblocksError):
    """A network file that is missing, broken, or does not say what the pipeline needs to know."""


class MissingExtraError(RoadblocksError):
    """An optional package is needed and not installed; the message names the extra to install."""


class NoGpuError(ModelError):
    """No GPU can be used here, or none that is fit for the network."""


class GpuMemoryError(NoGpuError):
    """The GPU lacks memory for the network."""
