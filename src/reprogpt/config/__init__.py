"""params.yaml: typed sections, validated when loaded, then frozen. Other packages import from here.
"""

from reprogpt.config.params import Config
from reprogpt.config.recipe import ARCHITECTURES, BatchRampConfig, ModelConfig, TrainConfig
from reprogpt.config.runtime import RuntimeConfig
from reprogpt.config.sections import (
    CORPORA,
    CorpusConfig,
    DownloadConfig,
    EvaluateConfig,
    HubConfig,
    SampleConfig,
    SuitesConfig,
    TaskConfig,
    TokenizeConfig,
)
from reprogpt.config.yaml_file import flatten, merge, read_yaml

__all__ = ["ARCHITECTURES", "CORPORA", "BatchRampConfig", "Config", "CorpusConfig",
           "DownloadConfig", "EvaluateConfig", "HubConfig", "ModelConfig", "RuntimeConfig",
           "SampleConfig", "SuitesConfig", "TaskConfig", "TokenizeConfig", "TrainConfig", "flatten",
           "merge", "read_yaml"]
