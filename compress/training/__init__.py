"""Training the compressor on labels."""

from typing import TYPE_CHECKING

from compress.lazy import lazy

if TYPE_CHECKING:
    from compress.training.config import PRESETS as PRESETS
    from compress.training.config import TrainConfig as TrainConfig
    from compress.training.config import preset as preset
    from compress.training.losses import LOSSES as LOSSES
    from compress.training.losses import LossKind as LossKind
    from compress.training.losses import make_objective as make_objective
    from compress.training.run import TrainResult as TrainResult
    from compress.training.run import train as train

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "config": ("PRESETS", "TrainConfig", "preset"),
        "losses": ("LOSSES", "LossKind", "make_objective"),
        "run": ("TrainResult", "train"),
    },
)
