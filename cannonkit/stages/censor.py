"""Censoring (paper section 3.1): where a label may act.

Polarity, stated once: `censor[p, i]` is 1 where label i ACTS in pixel p. Where it is 0 the coefficients of the
label and of every term that contains it are zero and are not fitted: the spectrum there does not change when
the label does. A label that no rule names acts everywhere.
"""
import numpy as np

from cannonkit.errors import DataError, did_you_mean
from cannonkit.stages import wavelength as wavelengths


def censor_of(wavelength, medium, windows, elements, label_names):
    """The censor mask: (n_pix, n_label) uint8, 1 = the label acts in the pixel.

    wavelength  (n_pix,) Angstrom in `medium` ('air' or 'vacuum')
    windows     line windows with element, wave_lo, wave_hi (Angstrom), medium and weight (recipe.Window);
                limits in the other medium are converted; weight 0 is no window
    elements    {label: names of the elements in whose windows it acts}; labels that the model lacks are skipped
    Raises DataError for an element without a window, and for a label that would act nowhere on this grid.
    """
    wavelength = np.asarray(wavelength, dtype=np.float64)
    censor = np.ones((len(wavelength), len(label_names)), np.uint8)
    known = {}
    for window in windows:
        known.setdefault(window.element.casefold(), []).append(window)
    for label, names in elements.items():
        if label not in label_names:
            continue
        acts = np.zeros(len(wavelength), np.uint8)
        for name in names:
            if name.casefold() not in known:
                raise DataError(f"censoring of {label}: the line mask has no element {name!r}"
                                f"{did_you_mean(name, sorted({w.element for w in windows}))}")
            for window in known[name.casefold()]:
                if window.weight > 0:
                    low, high = wavelengths.convert([window.wave_lo, window.wave_hi], window.medium, medium)
                    acts[(wavelength >= low) & (wavelength <= high)] = 1
        if not acts.any():
            raise DataError(f"censoring of {label}: no pixel of the grid ({wavelength.min():.1f} to "
                            f"{wavelength.max():.1f} Angstrom, {medium}) lies in a window of {', '.join(names)}")
        censor[:, list(label_names).index(label)] = acts
    return censor


def terms_on(censor, powers):
    """Which terms act in which pixel: (n_pix, n_term) uint8; a term acts where all its labels do."""
    off = (np.asarray(censor) == 0).astype(np.int64) @ (np.asarray(powers) > 0).T.astype(np.int64)
    return np.ascontiguousarray(off == 0, dtype=np.uint8)
