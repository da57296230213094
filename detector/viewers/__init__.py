"""Windows and recordings of frames: Rerun for streams and outputs, Open3D for outputs."""
