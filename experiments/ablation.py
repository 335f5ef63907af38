"""What each ingredient of local learning brings: leave one out at a time.

Train the photonic network with one ingredient changed at a time: one global loss
instead of a local one for each mesh, prototypes drawn at random instead of a simplex,
raw instead of balanced detection, pools of 8 ports that are normalised on their own
instead of one cosine, and each loss.
"""

import sys
from functools import partial
from typing import Any

from photonic_ffzero.cli.experiment import run_experiment, sweep

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "global loss": {"method": "bp-dd"},
    "random prototypes": {"prototypes": "random"},
    "raw detection": {"detection": "raw"},
    "pools of 8": {"norm_size": 8},
    "margin loss": {"loss": "margin:margin=0.3"},
    "cosine loss": {"loss": "cosine"},
}
ablation = partial(
    sweep,
    axes={"variant": VARIANTS},
    settings_of=lambda labels: VARIANTS[labels["variant"]],
    seeds=3,
    figure={"x": "variant", "title": "Ablation"},
)
PRESETS = {
    "small": partial(ablation, dataset="digits", epochs=12, batch_size=32, directions=16),
    "paper": partial(ablation, dataset="mnist"),
}

if __name__ == "__main__":
    sys.exit(run_experiment("ablation", __doc__, PRESETS))
