"""What a header may promise: checked before anything of that size is allocated."""

FREE_BYTES = 64 * 2**20
"""Images up to this size are decoded without asking whether the file can hold them."""
BYTES_PER_PIXEL = 4  # of max_pixels: eight-bit color with opacity
DEFLATE, JPEG, LZW = 1040, 1100, 2800
"""Most bytes that one compressed byte can stand for (1032 in deflate, 512 and rounding in JPEG, 2730 in LZW)."""


def check_size(height: int, width: int, bytes_per_pixel: int, max_pixels: int) -> None:
    """ValueError for an image, or a part of one, that is empty or beyond the limit.

    The limit is ``max_pixels`` pixels, and four bytes for each of them.
    """
    if height < 1 or width < 1 or bytes_per_pixel < 1:
        raise ValueError(f"an image of {height}×{width} pixels")
    if height * width > max_pixels or height * width * bytes_per_pixel > max_pixels * BYTES_PER_PIXEL:
        raise ValueError(
            f"{height}×{width} pixels of {bytes_per_pixel} bytes are more than the limit of {max_pixels} pixels "
            f"({BYTES_PER_PIXEL} bytes each); --data.max_pixels raises it"
        )


def check_plausible(promised: int, present: int, ratio: int) -> None:
    """ValueError if ``present`` bytes of a file cannot hold ``promised`` bytes of pixels."""
    if promised > FREE_BYTES and promised > present * ratio:
        raise ValueError(f"damaged: the header promises {promised} bytes of pixels, the file holds {present} bytes")
