"""Tables that name the real spectra of ../shared/data, in the form that a user would have them.

    python tests/real/prepare.py ../shared/data build/real

writes galah36.fits (36 GALAH DR3 stars with their pseudo-labels), apogee1.fits (one apStar) and bovy.model.fits
(a real APOGEE Cannon through the importer).
"""
import sys
from pathlib import Path

import numpy as np

from cannonkit import fits, importers, schema


def ecsv(path):
    """Rows of an ECSV file with blanks between values: {column: list of text}."""
    lines = [line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    names = lines[0].split()
    rows = [line.split(maxsplit=len(names) - 1) for line in lines[1:]]
    return {n: [r[i] for r in rows] for i, n in enumerate(names)}


def write_table(path, **columns):
    arrays = {n: np.asarray(v) for n, v in columns.items()}
    arrays = {n: a.astype("S") if a.dtype.kind == "U" else a for n, a in arrays.items()}
    table = schema.Table("CATALOGUE", tuple(schema.Column(n, a.dtype.str.lstrip("<|=")) for n, a in arrays.items()))
    rows = table.rows(len(next(iter(arrays.values()))), **arrays)
    path.write_bytes(fits.primary_hdu() + fits.table_hdu(table, rows))


def main(data, out):
    data, out = Path(data), Path(out)
    stars = ecsv(data / "galah_dr3_spectra" / "index.ecsv")
    write_table(out / "galah36.fits", sobject_id=np.array(stars["sobject_id"], np.int64),
                snr_c2_iraf=np.array(stars["snr2"], float), teff=np.array(stars["teff"], float),
                logg=np.array(stars["logg"], float), fe_h=np.array(stars["feh"], float),
                emission=np.array([e == "True" for e in stars["emission_candidate"]], np.int16))
    files = sorted(p.name for p in (data / "apogee_spectra").glob("apStar*.fits"))
    write_table(out / "apogee1.fits", APOGEE_ID=[f.removesuffix(".fits").split("-", 2)[2] for f in files], FILE=files,
                SNR=np.full(len(files), 154.0))
    giants = ecsv(data / "labels" / "bovy_cannon_training_labels.ecsv")
    labels = np.array([giants[n] for n in ("TEFF", "LOGG", "FE_H", "ALPHA_FE")], float).T
    fitted = importers.polynomial(data / "models" / "bovy_cannon_apogee_dr12_giants.fits", "apogee",
                                  10 ** (4.179 + 6e-6 * np.arange(8575)), "vacuum", labels, "BOVY")
    fitted.write(out / "bovy.model.fits", overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
