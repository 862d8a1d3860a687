"""The settings of pretraining as frozen dataclasses; their docstrings are the ``--help`` of ``fcmae pretrain``."""

from fcmae.config.checks import check_least, check_seed
from fcmae.config.data import IMAGENET_MEAN, IMAGENET_STD, DataConfig, TrainingImagesConfig
from fcmae.config.pretrain import PretrainConfig, PretrainModelConfig
from fcmae.config.train import BASE_BATCH, BATCH_SIZE, WARMUP_SHARE, OptimizationConfig, TrainConfig
from fcmae.config.watch import DIGITS, LogConfig, MonitorConfig

__all__ = [
    "BASE_BATCH",
    "BATCH_SIZE",
    "DIGITS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WARMUP_SHARE",
    "DataConfig",
    "LogConfig",
    "MonitorConfig",
    "OptimizationConfig",
    "PretrainConfig",
    "PretrainModelConfig",
    "TrainConfig",
    "TrainingImagesConfig",
    "check_least",
    "check_seed",
]
