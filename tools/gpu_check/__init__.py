"""`python -m tools.gpu_check`: whether and how fast everything runs on the GPU that is here."""
