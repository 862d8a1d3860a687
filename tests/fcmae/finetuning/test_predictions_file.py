"""Tables of predictions."""

import os
from pathlib import Path

import pytest
import torch

from fcmae.errors import UserError
from fcmae.finetuning.predictions_file import check_path_column, write_features, write_predictions


def test_names_that_are_not_utf8_are_refused_for_parquet_alone(tmp_path: Path) -> None:
    names = ["dog.png", os.fsdecode(b"caf\xe9.png")]
    for flag, instead in (("--output", ".csv"), ("--features", ".npz")):
        message = rf"{flag} t\.parquet: Parquet cannot hold the name b'caf\\xe9\.png', .* or take \{instead}"
        with pytest.raises(UserError, match=message):
            check_path_column(Path("t.parquet"), flag, names, instead)
        check_path_column(Path("t.parquet"), flag, ["café.png"], instead)
        check_path_column(Path(f"t{instead}"), flag, names, instead)
    write_predictions(tmp_path / "t.csv", names, ["a", "b"], ["a", "b"], torch.eye(2))
    assert b"caf\xe9.png,b,0,1" in (tmp_path / "t.csv").read_bytes()
    write_features(tmp_path / "t.npz", names, torch.eye(2))
