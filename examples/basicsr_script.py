"""BasicSR's own training with the plugin's networks, losses and metrics: two lines before BasicSR is imported.

``python basicsr_script.py -opt basicsr_script.yml``, with pairs in ``datasets/{train,test}/{input,target}``.

It is BasicSR's loop with all that is its own: options are not checked, and a resumed run does not repeat the batches of
an unbroken one. ``basicsr train`` runs the same option file, and `SupervisedModel` promises both.
"""

import os

import semiisp_plugin

semiisp_plugin.register()  # makes BasicSR run on current libraries, and fills its registries

from basicsr.train import train_pipeline  # noqa: E402 - not before

if __name__ == "__main__":
    train_pipeline(os.getcwd())
