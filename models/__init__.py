"""Networks: ONNX weights with their metadata, the grid they expect, and the executors that run them."""
