"""Models: training and validation of one phase each (``*_model.py``, registered when they are imported)."""
