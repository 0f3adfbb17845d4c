"""The scale of a survey's errors, measured from the finest structure of residuals (design.md 3, error scale)."""
import numpy as np

from cannonkit.errors import DataError, SettingError

# Least number of triples of pixels in a segment; the robust width of so many is known to about 5 %.
LEAST = 300
# Pixels between the three of a triple: two that are interpolated from the same pixel are no independent pair.
LAG = 2


def measure_ivar_scale(residual, ivar, segment):
    """Factor on ivar per segment: {segment: factor}.

    residual, ivar  (n_star, n_pix): flux minus a model; ivar 0 masks. segment (n_pix,) int
    The difference of a pixel from the mean of two others, LAG before and after it, keeps little of what a model
    misses (continuum, broad lines) and all of the noise; over its own error its width (half the 16-84 range) is 1
    if the errors are right, f otherwise: the factor is 1 / f^2. Neighbouring pixels are not used: interpolation
    onto the grid correlates them (of real GALAH spectra they give a factor four times as large). What a model
    misses at the scale of a line does enter, so the factor is rather too small than too large. Raises DataError
    for a segment with too few good pixels.
    """
    found = {}
    for s in np.unique(segment):
        middle = np.flatnonzero(segment == s)[LAG:-LAG]
        middle = middle[(segment[middle - LAG] == s) & (segment[middle + LAG] == s)]
        good = (ivar[:, middle] > 0) & (ivar[:, middle - LAG] > 0) & (ivar[:, middle + LAG] > 0)
        with np.errstate(divide="ignore"):
            var = np.where(ivar > 0, 1.0 / ivar.astype(np.float64), 0.0)
        second = residual[:, middle] - 0.5 * (residual[:, middle - LAG] + residual[:, middle + LAG])
        z = second[good] / np.sqrt(var[:, middle] + 0.25 * (var[:, middle - LAG] + var[:, middle + LAG]))[good]
        if z.size < LEAST:
            raise DataError(f"--ivar-scale measure: segment {s} has {z.size} triples of good pixels, "
                            f"{LEAST} are needed: give the factor")
        low, high = np.percentile(z, [15.8655, 84.1345])
        if not high > low:
            raise DataError(f"--ivar-scale measure: segment {s}: the residuals have no width: give the factor")
        found[int(s)] = float(4.0 / (high - low) ** 2)
    return found


def given_ivar_scale(text, segments):
    """{segment: factor} from an option: one number for all, or one per segment separated by commas."""
    try:
        values = [float(v) for v in str(text).split(",")]
    except ValueError:
        raise SettingError(f"ivar scale {text!r}: expected 'measure', a number, or one number per segment",
                           "ivar_scale") from None
    if len(values) == 1:
        values *= len(segments)
    if len(values) != len(segments) or not all(np.isfinite(v) and v > 0 for v in values):
        raise SettingError(f"ivar scale {text!r}: expected one factor above 0, or one for each of the "
                           f"{len(segments)} segments", "ivar_scale")
    return {int(s): v for s, v in zip(segments, values, strict=True)}
