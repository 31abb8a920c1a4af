"""params.yaml: typed sections, checked when loaded, frozen ever after.

Other packages import from here.
"""

from reprogpt.config.params import (
    ARCHITECTURES,
    CORPORA,
    Config,
)
from reprogpt.config.recipe import BatchRampConfig, ModelConfig, TrainConfig
from reprogpt.config.sections import (
    DownloadConfig,
    EvaluateConfig,
    HubConfig,
    RuntimeConfig,
    SampleConfig,
    SuitesConfig,
    TaskConfig,
    TokenizeConfig,
)
from reprogpt.config.yaml_file import flatten, merge, read_yaml

__all__ = ["ARCHITECTURES", "CORPORA", "BatchRampConfig", "Config", "DownloadConfig",
           "EvaluateConfig", "HubConfig", "ModelConfig", "RuntimeConfig", "SampleConfig",
           "SuitesConfig", "TaskConfig", "TokenizeConfig", "TrainConfig", "flatten", "merge",
           "read_yaml"]
