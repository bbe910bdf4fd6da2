"""Pairs, samplers, augmentation and data sets (``*_dataset.py``, registered when they are imported)."""
