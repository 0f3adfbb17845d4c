"""What the real runs gave, beside what is known: python tests/real/show.py giant LABELS DATA | crossval MODEL
| pulls PULLS."""
import os
import sys

import numpy as np

from cannonkit import bitmasks, fits, model, schema, stream


def giant(labels, data):
    """Labels of the apStar, combined and by visit, beside the velocity pipeline's values in its header."""
    folder = os.path.join(data, "apogee_spectra")
    name = next(n for n in sorted(os.listdir(folder)) if n.startswith("apStar"))
    fd = fits.open_fd(os.path.join(folder, name))
    header = fits.walk(fd, name, last=0)[0].header
    os.close(fd)
    print(f"{name}: header RV_TEFF {header['RV_TEFF']:.0f}, RV_LOGG {header['RV_LOGG']:.2f}, "
          f"RV_FEH {header['RV_FEH']:.2f}")
    with stream.open_source(labels, "labels") as source:
        rows = source.read()
    names = ("teff", "logg", "fe_h", "alpha_fe")
    for row in rows:
        values = ", ".join(f"{n} {row[n]:.2f} +- {row['e_' + n]:.2f}" for n in names)
        print(f"  visit {row['visit']}: {values}; r_chi2 {row['r_chi2']:.1f}; "
              f"{' '.join(bitmasks.FIT_STATUS.names_in(row['status'])) or 'no remark'}")
    combined, visits = rows[rows["visit"] == 0][0], rows[rows["visit"] > 0]
    spread = {n: max(abs(v[n] - combined[n]) for v in visits) for n in names}
    print("  largest difference of a visit from the combined: " + ", ".join(f"{n} {d:.3f}" for n, d in spread.items()))
    assert abs(combined["teff"] - header["RV_TEFF"]) < 100
    assert spread["teff"] < 10 and spread["logg"] < 0.05 and spread["fe_h"] < 0.02
    assert combined["status"] & bitmasks.FIT_STATUS.OUTSIDE_TRAINING


def crossval(path):
    """Cross-validated labels of a model: bias, half of the 16-84 range, standard deviation; the labels' own spread."""
    fitted = model.read(path)
    rows = fitted.training[fitted.training["used"] != 0]
    print(f"{os.path.basename(path)}: {len(rows)} stars, {fitted.n_term} terms, {fitted.usable.sum()} pixels")
    for name in fitted.label_names:
        true, found = np.asarray(rows[name], float), np.asarray(rows["cv_" + name], float)
        good = np.isfinite(found)
        difference = (found - true)[good]
        low, middle, high = np.percentile(difference, [16, 50, 84])
        unit = schema.label(name).unit
        print(f"  {name}: bias {middle:.3g}, half 16-84 {(high - low) / 2:.3g}, "
              f"standard deviation {difference.std():.3g} "
              f"{unit}; spread of the labels {true.std():.3g}; {np.sum(~good)} not measured")


def pulls(path):
    """Widths of pulls in bins, with one factor for all and with the full model, and how many are within 0.1 of 1."""
    with stream.open_source(path, "errors") as source:
        rows = source.read()
    for name in dict.fromkeys(rows["label"].tolist()):
        for axis in dict.fromkeys(rows["axis"].tolist()):
            own = rows[(rows["label"] == name) & (rows["axis"] == axis)]
            for kind in ("factor", "full"):
                print(f"  {name.decode():<8} {'by ' + axis.decode() if axis != b'all' else 'all stars':<9} {kind:<6} "
                      f"{own['n_pair'][0]:5d} stars  " + " ".join(f"{w:5.2f}" for w in own[kind]))
    bins = rows[rows["axis"] != b"all"]
    for kind in ("factor", "full"):
        off = np.abs(bins[kind] - 1)
        print(f"  {kind}: {np.sum(off <= 0.1)} of {len(bins)} bins within 0.1 of 1, largest {off.max():.3f}; noise "
              f"{bins['error'].mean():.3f} each")


if __name__ == "__main__":
    {"giant": giant, "crossval": crossval, "pulls": pulls}[sys.argv[1]](*sys.argv[2:])
