"""Training: data, augmentation, targets, network, loss, export. Needs the extra `train` (PyTorch)."""
