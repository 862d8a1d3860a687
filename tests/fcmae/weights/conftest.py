"""A small network's weights under the official names."""

import pytest
import torch
from torch import Tensor

import fcmae


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return fcmae.convert_to_dense(fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict(), "official")


def same(got: dict[str, Tensor], official: dict[str, Tensor]) -> bool:
    wanted = fcmae.convert_to_dense(official)
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)
