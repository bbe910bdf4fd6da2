"""Models: training and validation of one phase each.

Importing this package registers every ``*_model.py`` in BasicSR's registry.
"""

from semiisp_plugin._scan import import_modules

import_modules(__name__, __path__, "_model")
