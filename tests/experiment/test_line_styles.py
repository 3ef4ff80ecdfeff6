from itertools import combinations

from matplotlib.colors import to_rgb

from polyclinic.experiment.line_styles import COLOURS, LINES


def lightness(colour):
    """Relative luminance of WCAG 2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_colours_are_seen_on_white_and_are_not_the_same():
    assert all(1.05 / (lightness(colour) + 0.05) > 2 for colour in COLOURS)
    assert len({*COLOURS}) == len(COLOURS)
    assert all(
        max(abs(a - b) for a, b in zip(to_rgb(x), to_rgb(y), strict=True)) > 0.2 for x, y in combinations(COLOURS, 2)
    )
    assert len({str(line) for line in LINES}) == len(LINES)
