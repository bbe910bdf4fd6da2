"""Semi-supervised learning for learned camera ISPs and image enhancement, as a plugin for BasicSR.

Importing the package registers its architectures, data sets, losses, metrics and models in BasicSR's registries.
"""

import atexit
import gc

# Importing torch and BasicSR makes more than half a million objects, and nearly all of them stay. To look through them
# for garbage again and again takes a tenth of the time, and as they are frozen afterwards, training and the forked
# workers of a loader are spared it too.
_collected = gc.isenabled()
gc.disable()
try:
    from semiisp_plugin import archs, data, losses, metrics, models
    from semiisp_plugin._version import __version__

    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries look then whether all of their objects are gone
finally:
    if _collected:
        gc.enable()

__all__ = ["__version__", "archs", "data", "losses", "metrics", "models"]
