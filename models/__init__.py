"""The networks: the sparse ConvNeXt encoder, the decoder, and FCMAE, which combines them."""

from fcmae.models.config import ModelConfig
from fcmae.models.encoder import SparseConvNeXt
from fcmae.models.fcmae import FCMAE, FCMAEOutput, create_model
from fcmae.models.sizes import list_models

__all__ = ["FCMAE", "FCMAEOutput", "ModelConfig", "SparseConvNeXt", "create_model", "list_models"]
