"""Images: reading, resizing and writing them, inpainting masks, EXIF, XMP."""

__all__ = ["exif", "load", "mask", "pillow", "xmp"]
