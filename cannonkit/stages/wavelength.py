"""Air and vacuum wavelengths, in Angstrom (surveys differ: APOGEE vacuum, GALAH air; never assumed).

Refractive index of standard air (15 C, 101325 Pa, 450 ppm CO2, dry): Ciddor 1996, Applied Optics 35, 1566,
equation 1, valid from 2300 to 16900 Angstrom and used a little beyond; other published formulas differ by
less than 1e-8 of the wavelength there.
"""
import numpy as np

from cannonkit.errors import DataError

MEDIA = ("air", "vacuum")


def refractive_index(vacuum):
    """Refractive index of standard air at vacuum wavelengths in Angstrom (array of any shape)."""
    wavenumber2 = (1e4 / np.asarray(vacuum, dtype=np.float64)) ** 2      # 1 / micrometre^2
    return 1.0 + 1e-8 * (5792105.0 / (238.0185 - wavenumber2) + 167917.0 / (57.362 - wavenumber2))


def vacuum_to_air(vacuum):
    """Air wavelength (Angstrom) of vacuum wavelengths. NaN stays NaN."""
    vacuum = np.asarray(vacuum, dtype=np.float64)
    return vacuum / refractive_index(vacuum)


def air_to_vacuum(air):
    """Vacuum wavelength (Angstrom) of air wavelengths; exact inverse of vacuum_to_air. NaN stays NaN."""
    air = np.asarray(air, dtype=np.float64)
    vacuum = air * refractive_index(air)
    for _ in range(3):                 # n varies slowly: each step gains six digits
        vacuum = air * refractive_index(vacuum)
    return vacuum


def convert(wavelength, medium, to):
    """Wavelengths (Angstrom) of `medium` in the medium `to`, both 'air' or 'vacuum'. DataError otherwise."""
    for name in (medium, to):
        if name not in MEDIA:
            raise DataError(f"medium {name!r} of a wavelength is neither 'air' nor 'vacuum'")
    if medium == to:
        return np.asarray(wavelength, dtype=np.float64)
    return air_to_vacuum(wavelength) if to == "vacuum" else vacuum_to_air(wavelength)
