"""One operation per module: its equation, its NumPy reference, its Numba kernels, its public function."""
