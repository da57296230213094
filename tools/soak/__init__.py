"""Whether a pipeline that runs for long stays as it is: ``python -m tools.soak``."""
