"""Images: reading, resizing and writing them, inpainting masks, EXIF."""

__all__ = ["exif", "load", "mask", "pillow"]
