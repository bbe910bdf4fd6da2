"""Trained networks on people's images: files, folders, RAW files, of any size; ``basicsr enhance``."""
