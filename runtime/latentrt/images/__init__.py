"""Images: reading, resizing and writing them, inpainting masks, EXIF, XMP."""

__all__ = ["colours", "credentials", "exif", "load", "mask", "pillow", "terminal", "xmp"]
