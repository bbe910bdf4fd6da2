"""Trained networks as files of other programs: ONNX, safetensors, tables of colours; ``basicsr export``."""
