"""Network architectures, one a file (``*_arch.py``); a file registers its network when it is imported."""
