"""Device selection for ``--device``."""

import torch

from fcmae.cli.matmul import use_exact_onednn
from fcmae.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto``: the accelerator if there is one, otherwise the CPU.

    On a CPU, matrix products are made faster from then on (:mod:`fcmae.cli.matmul`).

    Raises:
        UserError: the name is unknown to torch, or the device is not available.
    """
    device = _device(name)
    if device.type == "cpu":
        use_exact_onednn()
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # torch raises these for unknown names, missing devices, and devices that it was built without;
    # the user gets torch's reason as one line
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        if "device type at start" in reason or "Invalid device string" in reason:
            reason = "no such device"
        raise UserError(f"--device {name} cannot be used here: {reason}; here are {', '.join(available())}") from None
    return device


def available() -> list[str]:
    """The devices of this machine, by the names that ``--device`` accepts."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", found.type, *(f"{found.type}:{n}" for n in range(count) if count > 1)]
