"""Image and LMDB input/output, pairs, samplers and data sets.

Importing this package registers every ``*_dataset.py`` beside this file in BasicSR's ``DATASET_REGISTRY``.
"""

from semiisp_plugin._scan import import_modules

import_modules(__name__, __path__, "_dataset")
