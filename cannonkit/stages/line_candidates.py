"""Which lines could make a feature of a difference spectrum: a list of lines with rough strengths (appendix B).

The list is the mock's (stages/mock_lines.py: real wavelengths of atoms, bands from spectroscopic constants), its
strengths are those of the mock's atmosphere for the star's labels: good for telling strong lines from weak ones.
"""
import numpy as np

from cannonkit.kernels import mock_atmosphere
from cannonkit.stages import mock_atoms, mock_lines, mock_spectra, mock_stars
from cannonkit.stages import wavelength as wavelengths

CANDIDATE = np.dtype([("wavelength", "f8"), ("species", "S16"), ("strength", "f8")])
WEAK = 0.01       # opacity over continuous opacity in a line's middle: weaker lines are left out
WIDTH = 2e5       # cm/s, thermal width and v_micro


def of_star(low, high, medium, teff, logg, fe_h):
    """CANDIDATE rows, ascending, for low to high (Angstrom in `medium`) in a star of these labels (K, dex, dex).

    Its [alpha/Fe] is 0.2, carbon and nitrogen are solar. strength: opacity over continuous opacity.
    """
    low, high = wavelengths.convert(np.array([low, high]), medium, "vacuum")
    lines = mock_lines.lines_between(low, high)
    star = np.zeros(1, mock_stars.STAR)
    star["teff"], star["logg"], star["fe_h"], star["alpha_fe"] = teff, logg, fe_h, 0.2
    region = int(np.argmin([abs(0.5 * (r[0] + r[1] - low - high)) for r in mock_spectra.REGIONS]))
    state, density = mock_spectra.Synthesis(wanted=(region,)).atmospheres(star)
    kt = mock_atmosphere.K_EV * state[0, region, mock_atmosphere.T_LINE]
    out = np.zeros(len(lines), CANDIDATE)
    out["wavelength"] = wavelengths.convert(lines["wavelength"], "vacuum", medium)
    names = np.array(_species_names(), "S16")
    out["species"] = names[lines["species"]]
    absorbers = density[0, region][lines["species"]] * 10.0 ** lines["log_gf"] * np.exp(-lines["excitation"] / kt)
    cross_section = 0.02654 * lines["wavelength"] * 1e-8 / (np.sqrt(np.pi) * WIDTH)     # pi e^2 / (m c), per f
    out["strength"] = absorbers * cross_section / state[0, region, mock_atmosphere.KAPPA]
    return out[out["strength"] > WEAK]


def _species_names():
    atoms = [f"{symbol} {stage}" for symbol in mock_atoms.SYMBOLS for stage in ("I", "II")]
    return [*atoms, *mock_atoms.MOLECULE_NAMES]


def near(candidates, wavelength, within, most=3):
    """The strongest line of each species within `within` Angstrom: at most `most` CANDIDATE rows, strongest first."""
    own = candidates[np.abs(candidates["wavelength"] - wavelength) <= within]
    own = own[np.argsort(-own["strength"], kind="stable")]
    first = np.sort(np.unique(own["species"], return_index=True)[1])
    return own[first[:most]]
