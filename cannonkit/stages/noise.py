"""The scale of a survey's errors, measured from the finest structure of residuals (design.md 3, error scale)."""
import numpy as np

from cannonkit.errors import DataError

# Least number of triples of pixels in a segment; the robust width of so many is known to about 5 %.
LEAST = 300


def measure_ivar_scale(residual, ivar, segment):
    """Factor on ivar per segment: {segment: factor}.

    residual, ivar  (n_star, n_pix): flux minus a model; ivar 0 masks. segment (n_pix,) int
    In three neighbouring pixels r_p - (r_{p-1} + r_{p+1}) / 2 keeps little of what a model misses (lines are wider
    than a pixel) and all of the noise; over its own error it has the width 1 (half the 16-84 range) if the errors
    are right, f otherwise: the factor is 1 / f^2. Noise is taken as independent between pixels: interpolation onto
    the grid correlates it and makes f a little too small. Raises DataError for a segment with too few good pixels.
    """
    found = {}
    for s in np.unique(segment[segment >= 0]):          # -1: gaps between detectors, without data
        pixel = np.flatnonzero(segment == s)
        middle = pixel[1:-1][(np.diff(pixel)[:-1] == 1) & (np.diff(pixel)[1:] == 1)]
        good = (ivar[:, middle] > 0) & (ivar[:, middle - 1] > 0) & (ivar[:, middle + 1] > 0)
        with np.errstate(divide="ignore"):
            var = np.where(ivar > 0, 1.0 / ivar.astype(np.float64), 0.0)
        second = residual[:, middle] - 0.5 * (residual[:, middle - 1] + residual[:, middle + 1])
        z = second[good] / np.sqrt(var[:, middle] + 0.25 * (var[:, middle - 1] + var[:, middle + 1]))[good]
        if z.size < LEAST:
            raise DataError(f"--ivar-scale measure: segment {s} has {z.size} triples of good pixels, "
                            f"{LEAST} are needed: give the factor")
        low, high = np.percentile(z, [15.8655, 84.1345])
        found[int(s)] = float(4.0 / (high - low) ** 2)
    return found


def given_ivar_scale(text, segments):
    """{segment: factor} from an option: one number for all, or one per segment separated by commas."""
    try:
        values = [float(v) for v in str(text).split(",")]
    except ValueError:
        raise DataError(f"ivar scale {text!r}: expected 'measure', a number, or one number per segment") from None
    if len(values) == 1:
        values *= len(segments)
    if len(values) != len(segments) or not all(np.isfinite(v) and v > 0 for v in values):
        raise DataError(f"ivar scale {text!r}: expected one factor above 0, or one for each of the "
                        f"{len(segments)} segments")
    return {int(s): v for s, v in zip(segments, values, strict=True)}
