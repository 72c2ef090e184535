"""A multi-label set that needs no download: canvases on which several real digits lie."""

import numpy as np

SIDE = 24
MAX_DIGITS = 5


def compose_canvases(
    digits: np.ndarray, labels: np.ndarray, num_canvases: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, SIDE, SIDE, C]` of 1 to `MAX_DIGITS` digits, and {0, 1} `[N, 10]`.

    The digits, their number, places and contrast (1/2 to 1) are drawn uniformly. If digits overlap,
    the brighter pixel shows.
    """
    _, height, width, channels = digits.shape
    canvases = np.zeros((num_canvases, SIDE, SIDE, channels), np.uint8)
    targets = np.zeros((num_canvases, 10), np.uint8)
    counts = generator.integers(1, MAX_DIGITS + 1, num_canvases)
    owners = np.repeat(np.arange(num_canvases), counts)
    drawn = generator.integers(len(digits), size=len(owners))
    corners = generator.integers((SIDE - height + 1, SIDE - width + 1), size=(len(owners), 2))
    contrasts = generator.uniform(0.5, 1, len(owners))
    for owner, digit, (y, x), contrast in zip(owners, drawn, corners, contrasts, strict=True):
        place = canvases[owner, y : y + height, x : x + width]
        np.maximum(place, np.round(contrast * digits[digit]).astype(np.uint8), out=place)
        targets[owner, labels[digit]] = 1
    return canvases, targets
