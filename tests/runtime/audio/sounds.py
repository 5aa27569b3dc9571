"""Sounds made of formulas, the same on every machine."""

import numpy as np

RATE = 44100
A_MINOR_SCALE = (220.0, 246.94, 261.63, 293.66, 329.63, 349.23, 392.0, 440.0)


def note(hertz: float, seconds: float) -> np.ndarray:
    """Returns a plucked note of five harmonics, peak under 1."""
    t = np.arange(round(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * hertz * (k + 1) * t) / (k + 1) ** 2 for k in range(5))
    return harmonics / 1.5 * np.exp(-3 * t) * np.minimum(1, t / 0.005)


def melody(notes: tuple[float, ...], seconds: float) -> np.ndarray:
    """Returns notes of `seconds` each, one after the other: (samples, 1) float32 in units of 16 bits."""
    return (20000 * np.concatenate([note(hertz, seconds) for hertz in notes]))[:, None].astype(np.float32)


def beat(seconds: float) -> np.ndarray:
    """Returns a falling sine four times a second over noise: (samples, 1) float32 in units of 16 bits."""
    t = np.arange(round(seconds * RATE)) / RATE
    drum = np.sin(2 * np.pi * 30 * np.exp(-20 * (t % 0.25))) * np.exp(-15 * (t % 0.25))
    hiss = np.random.RandomState(0).uniform(-1, 1, len(t)) * np.exp(-40 * (t % 0.125))
    return (15000 * (drum + 0.3 * hiss))[:, None].astype(np.float32)


def duet(seconds: float) -> np.ndarray:
    """Returns a note on the left and a beat on the right: (samples, 2) whole float32 in units of 16 bits."""
    return np.round(np.concatenate([melody((440.0,), seconds), beat(seconds)], axis=1))
