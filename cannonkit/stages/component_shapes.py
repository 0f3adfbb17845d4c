"""What a misfit component looks like (design.md 5): continuum, a shift or a change of width of lines, an element."""
import numpy as np

SMOOTH = 100        # pixels of the running mean that stands for the continuum


def likeness(loading, baseline, usable, segment):
    """{'continuum', 'line shift', 'line width'}: the share of a component's variance that each explains, 0 to 1.

    loading, baseline (n_pix,): a component and the flux of the median star; usable (n_pix,) bool; segment (n_pix,) int.
    Continuum: the running mean over SMOOTH pixels of the same segment; shift and width: the squared correlation with
    the first and the second derivative of the baseline, which small changes of velocity and of resolution follow.
    """
    smooth, first, second = np.zeros_like(loading), np.zeros_like(loading), np.zeros_like(loading)
    for s in np.unique(segment[usable]):
        at = np.flatnonzero(usable & (segment == s))
        if len(at) < 5:
            continue
        window = np.ones(min(SMOOTH, len(at)))
        smooth[at] = np.convolve(loading[at], window, "same") / np.convolve(np.ones(len(at)), window, "same")
        first[at] = np.gradient(baseline[at])
        second[at] = np.gradient(first[at])
    own = loading[usable]
    total = np.sum(own ** 2)
    if not total > 0:
        return {"continuum": 0.0, "line shift": 0.0, "line width": 0.0}
    return {"continuum": float(min(np.sum(smooth[usable] ** 2) / total, 1.0)),
            "line shift": _squared_correlation(own, first[usable]),
            "line width": _squared_correlation(own, second[usable])}


def _squared_correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    scale = np.sum(a * a) * np.sum(b * b)
    return float(np.sum(a * b) ** 2 / scale) if scale > 0 else 0.0


def elements(loading, usable, wavelength, windows):
    """[(element, share of the component's variance over the share of the pixels)] in its line windows, largest first.

    windows  [(low, high, element)] in the wavelengths' medium; an element without a usable pixel is left out
    """
    found, total = [], np.sum(loading[usable] ** 2)
    for name in sorted({w[2] for w in windows}):
        inside = np.zeros(len(wavelength), bool)
        for low, high, element in windows:
            if element == name:
                inside |= (wavelength >= low) & (wavelength <= high)
        inside &= usable
        if inside.any() and total > 0:
            found.append((name, float(np.sum(loading[inside] ** 2) / total * np.sum(usable) / np.sum(inside))))
    return sorted(found, key=lambda pair: -pair[1])
