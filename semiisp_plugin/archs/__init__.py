"""Network architectures. Importing this package registers every ``*_arch.py`` in BasicSR's registry."""

from semiisp_plugin._scan import import_modules

import_modules(__name__, __path__, "_arch")
