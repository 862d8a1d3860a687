"""The largest micro-batch that fits in the memory of the device."""

from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fcmae.models import FCMAE

MakeLoss = Callable[[int], Callable[[], Tensor]]
"""Number of images → a function that computes their loss; the images are made first, and are not measured."""

CPU_LIMIT = 64  # memory of a CPU is shared with everything else, and larger batches are hardly faster
CUDA_LIMIT = 512
SHARE = 0.8  # of the free GPU memory; the rest is for fragmentation and for what torch.compile needs
PROBE = 8  # images
ADAMW_COPIES = 2  # AdamW's two moments, each as large as the weights


def largest_micro_batch(model: FCMAE, num_visible: int, accelerator: Accelerator) -> int:
    """Images per micro-batch of pretraining, as :func:`largest_batch` finds them."""
    return largest_batch(model, partial(_loss_of_zeros, model, num_visible, accelerator.device), accelerator)


def largest_batch(model: nn.Module, make_loss: MakeLoss, accelerator: Accelerator, copies: int = 0) -> int:
    """Images per micro-batch, the same on all processes: those that fit on a GPU, at most 64 on any other device.

    ``copies`` of the weights are kept besides AdamW's two moments. On a GPU it measures forward and backward passes of
    8 and 16 images. All processes must call it. It changes no weight of the model, but moves it to the device.
    """
    fits = CPU_LIMIT
    if accelerator.device.type == "cuda":
        with accelerator.autocast():
            # gradients are also summed, over micro-batches or processes
            copies += ADAMW_COPIES + 1
            fits = min(CUDA_LIMIT, _fits_on_gpu(model, make_loss, accelerator.device, copies))
    return int(accelerator.gather(torch.tensor([fits], device=accelerator.device)).min())


def _fits_on_gpu(model: nn.Module, make_loss: MakeLoss, device: torch.device, copies: int) -> int:
    """Images whose activations fit beside the gradients and ``copies`` of the weights."""
    try:
        model.to(device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        _peak_bytes(model, make_loss, PROBE, device)  # kernels are compiled and workspaces allocated once
        few, more = (_peak_bytes(model, make_loss, images, device) for images in (PROBE, 2 * PROBE))
    except torch.OutOfMemoryError:
        return 1
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return images_that_fit(SHARE * free - copies * weights, few, more)


def images_that_fit(available: float, few: int, more: int) -> int:
    """From the bytes of ``PROBE`` and of twice as many images, how many fit; at least 1."""
    per_image = max(1.0, (more - few) / PROBE)
    fixed = few - PROBE * per_image
    return max(1, int((available - fixed) / per_image))


def _peak_bytes(model: nn.Module, make_loss: MakeLoss, images: int, device: torch.device) -> int:
    """Most bytes allocated during a forward and backward pass, beyond those before it."""
    model.zero_grad(set_to_none=True)
    loss = make_loss(images)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    loss().backward()
    return torch.cuda.max_memory_allocated(device) - before


def _loss_of_zeros(model: FCMAE, num_visible: int, device: torch.device, images: int) -> Callable[[], Tensor]:
    config = model.config
    x_BCHW = torch.zeros(images, config.in_chans, *config.image_hw, device=device)
    visible = torch.zeros(images, *config.grid_hw, dtype=torch.bool, device=device)
    visible.flatten(1)[:, :num_visible] = True
    return lambda: model(x_BCHW, visible=visible, num_visible=num_visible, masked_only=True).loss
