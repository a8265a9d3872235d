"""Image files as `training.prepare` stores them: upright grayscale or RGB JPEG."""

import io

from elu_zoo.errors import UserError
from elu_zoo.images import is_upright, read_image
from training.data.decoding import RATIOS, decode_jpeg, sides_of


def rgb_jpeg(data: bytes) -> bytes:
    """Converts an image file to a grayscale or RGB JPEG, which training can read.

    Args:
        data: Content of the file.

    Returns:
        The same bytes; a converted file if it is CMYK, not a JPEG, a kind of JPEG that
        training cannot read, or not upright by its EXIF data, which training ignores.

    Raises:
        UserError: If the file cannot be decoded to its end.
    """
    try:
        if any(sides_of(data)) and is_upright(data):
            # This reads the whole file but computes few pixels.
            decode_jpeg(data, RATIOS[-1])
            return data
        converted = io.BytesIO()
        read_image(data).save(converted, "JPEG", quality=100, subsampling=0)
        return converted.getvalue()
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"Expected a whole image. {error}") from error


def resized(data: bytes, side: int) -> bytes:
    """Resizes an image file to a square.

    It does the same as `elu_zoo.images.resize` with `mode="squash"`, but rounds the
    values and stores a JPEG file.

    Args:
        data: Content of the file.
        side: Side of the square in pixels.

    Returns:
        Content of a JPEG file.
    """
    from PIL import Image

    image = read_image(data).resize((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()
