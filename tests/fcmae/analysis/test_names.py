"""Networks by name: what is known before torch is imported, and after."""

import json
import subprocess
import sys

import pytest
import timm

from fcmae.analysis import names
from fcmae.analysis.names import check_is_of_timm, parse_names
from fcmae.errors import UserError

KNOWN = ["convnextv2_atto", "convnextv2_atto.fcmae", "vit_base_patch16_224", "convnext_isotropic_small"]
UNKNOWN = ["convnextv2_atom", "nonsense", "convnext_isotropic_tiny"]


def test_without_torch() -> None:
    """The isotropic networks, which timm has from us, among them."""
    code = f"""
import json, sys
from fcmae.analysis.names import parse_names
from fcmae.errors import UserError
found = []
for name in {KNOWN + UNKNOWN}:
    try:
        found.append(parse_names([name])[0].label)
    except UserError as error:
        found.append("neither" in str(error))
print(json.dumps([found, "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == [[*KNOWN, *(True for _ in UNKNOWN)], False], done.stderr


def test_with_timm_imported() -> None:
    for name in KNOWN:
        check_is_of_timm(name)
    for name in UNKNOWN:
        with pytest.raises(UserError, match=f"{name} is neither a run"):
            check_is_of_timm(name)


def test_every_network_of_timm_is_found_in_its_source() -> None:
    _, found = names._may_be_of_timm("convnextv2_atto")
    ours = {name for name in timm.list_models() if "isotropic" in name and name.startswith("convnext")}
    assert set(timm.list_models()) - set(found) <= ours


def test_labels() -> None:
    one, two = parse_names(["convnextv2_atto", "mine/1=resnet18"])
    assert (one.label, one.source, one.is_path) == ("convnextv2_atto", "convnextv2_atto", False)
    assert (two.label, two.file_name, two.source) == ("mine/1", "mine_1", "resnet18")
