"""The devices torch can use here."""

import torch

from common.errors import SettingsError


def usable_device(name: str) -> torch.device:
    """Return the device called `name`, a GPU as this thread's current one, where kernels and graphs go.

    Raises SettingsError when torch cannot put a tensor there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without the device
        raise SettingsError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
