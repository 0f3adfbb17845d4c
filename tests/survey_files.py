"""Small survey files for the tests, in the surveys' own layouts, written by astropy."""
import numpy as np
from astropy.io import fits

APSTAR = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1}


def apstar(path, flux, error, bits, flat=False, header=None, dtype="f4", bits_type="i2"):
    """An apStar file from (rows, 8575) arrays; `flat`: one row as a 1-D image."""
    parts = [np.asarray(x).astype(t) for x, t in ((flux, dtype), (error, dtype), (bits, bits_type))]
    if flat:
        parts = [p[0] for p in parts]
    hdus = [fits.PrimaryHDU(header=fits.Header({**APSTAR, "NVISITS": 1, **(header or {})}))]
    for k, data in enumerate([*parts, *[np.zeros_like(parts[0])] * 4], 1):
        hdus.append(fits.ImageHDU(data, header=fits.Header(APSTAR if k < 4 else {})))
    hdus.append(fits.ImageHDU())
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("JD", "D", array=[1.0])]))
    fits.HDUList(hdus).writeto(path, overwrite=True)


def aspcapstar(path, flux, error):
    hdus = [fits.PrimaryHDU()]
    for data in (flux, error, flux):
        hdus.append(fits.ImageHDU(np.asarray(data, "f4"), header=fits.Header(APSTAR)))
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("ASPCAPFLAG", "J", array=[0])]))
    fits.HDUList(hdus).writeto(path, overwrite=True)


def galah(path, flux, relative, start, step, velocity=0.0, n_hdu=5, names=True, crpix=1.0):
    """A GALAH DR3 file: HDU 0 counts in the observed frame, HDU 4 normalised at rest on its own grid."""
    observed = {"CRVAL1": start, "CDELT1": step, "CRPIX1": 1.0, "CTYPE1": "LINEAR"}
    shift = 1 - velocity / 299792.458
    rest = {"CRVAL1": start * shift, "CDELT1": step * shift, "CRPIX1": crpix, "CUNIT1": "Angstroms"}
    flux, relative = np.asarray(flux, "f8"), np.asarray(relative, "f4")
    hdus = [fits.PrimaryHDU((1000 * flux).astype("f4"), header=fits.Header(observed))]
    extension = [("input_sigma", relative), ("no_sky_subspectrum", (1100 * flux).astype("f4")),
                 ("no_sky_sigma", relative)]
    for name, data in extension:
        hdus.append(fits.ImageHDU(data, header=fits.Header(observed), name=name if names else None))
    hdus.append(fits.ImageHDU(flux, header=fits.Header(rest), name="normalised spectra" if names else None))
    fits.HDUList(hdus[:n_hdu]).writeto(path, overwrite=True)


def galah6(path, flux, relative, start, step, velocity=None):
    """A file of GALAH's reduction 6.0 (DR4)."""
    head = {"CRVAL1": start, "CDELT1": step, "CRPIX1": 1.0, "CTYPE1": "LINEAR"}
    if velocity is not None:
        head |= {"RVCOM": velocity, "RVCOM_OK": 1}
    flux, relative = np.asarray(flux, "f4"), np.asarray(relative, "f4")
    hdus = [fits.PrimaryHDU(1000 * flux, header=fits.Header(head))]
    for name, data in (("normalized", flux), ("relative_error", relative), ("sky", flux), ("teluric", flux),
                       ("scattered", flux), ("cross_talk", flux), ("resolution_profile", flux)):
        hdus.append(fits.ImageHDU(data, header=fits.Header(head), name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
