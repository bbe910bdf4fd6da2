"""The rooms of the training pipeline: loaders, resume, signals, progress, what a stalled loader waits for."""
