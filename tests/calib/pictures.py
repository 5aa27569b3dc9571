"""Pictures that a formula gives, and what may happen to them; the same on every machine."""

import numpy as np

SIZES = ((11, 11), (24, 40), (65, 48), (128, 128))


def picture(size):
    """An RGB picture of (height, width): waves, an edge and a flat corner."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    waves = [120 + 100 * np.sin(x / (3 + k) + k) * np.cos(y / (7 - k)) for k in range(3)]
    drawn = np.stack(waves, axis=2)
    drawn[height // 2 :, : width // 3] = (250, 20, 128)
    return drawn.round().astype(np.uint8)


def noisy(drawn):
    """With noise that is white to the eye: the golden ratio's multiples are spread evenly."""
    noise = (np.arange(drawn.size) * 0.6180339887498949 % 1 - 0.5) * 40
    return changed(drawn + noise.reshape(drawn.shape))


def shifted(drawn):
    return np.roll(drawn, 1, axis=1)


def darker(drawn):
    return changed(drawn * 0.8)


def flat(drawn):
    return np.full_like(drawn, 128)


def inverted(drawn):
    return 255 - drawn


def one_off(drawn):
    """One value of the picture is off by one step."""
    other = drawn.copy()
    other[drawn.shape[0] // 2, drawn.shape[1] // 2, 1] ^= 1
    return other


def changed(values):
    return np.clip(values.round(), 0, 255).astype(np.uint8)


CHANGES = {change.__name__: change for change in (noisy, shifted, darker, flat, inverted, one_off)}
