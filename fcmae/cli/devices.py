"""The device that a command runs on, from ``--device``."""

import torch

from fcmae.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto``: the accelerator if there is one.

    Raises:
        UserError: torch does not know it, or it is not here.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # torch raises these for a name that it does not know, and a device that is not there or that it was not built for;
    # nothing is swallowed, the user gets torch's reason as one line
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used here: {str(error).strip().splitlines()[0]}") from None
    return device
