"""Small products made from arrays, for the tests of commands."""
import numpy as np

from cannonkit import schema, stream

LABELS = tuple(schema.LABELS)
CENTRE = np.array([5200.0, 3.4, -0.2, 0.08, 1.3, 8.0])
SIGMA = np.array([600.0, 0.9, 0.3, 0.1, 0.3, 4.0])
FORMAL = np.array([20.0, 0.03, 0.02, 0.01, 0.05, 0.3])


def star_names(n, prefix="2M", start=0):
    return np.array([f"{prefix}{start + k:08d}".encode() for k in range(n)])


def covariance(rng, n, names=LABELS, formal=None):
    """(n, n_label, n_label): formal errors FORMAL (within a factor 2), correlations of 0.3."""
    k = [LABELS.index(x) for x in names]
    sigma = FORMAL[k] * rng.uniform(0.7, 1.4, (n, len(k))) if formal is None else formal
    return sigma[:, :, None] * sigma[:, None, :] * (0.3 + 0.7 * np.eye(len(k)))


def label_rows(ids, star_ids, labels, cov, snr, names=LABELS, visit=0, **values):
    """Rows of schema.labels_table from arrays; the rest is filled with harmless values."""
    n = len(labels)
    table = schema.labels_table(names)
    given = {"id": ids, "star_id": star_ids, "visit": visit, "snr_survey": snr, "cov": cov, "chi2": 990.0,
             "r_chi2": 1.0, "snr": snr, "snr_cannon": 0.5 * np.asarray(snr), "n_pix_used": 1000, "n_iter": 5,
             "status": 0, "spectrum_status": 0}
    given = {k: v for k, v in given.items() if k in table.names}
    for k, name in enumerate(names):
        given[name], given[f"e_{name}"] = labels[:, k], np.sqrt(cov[:, k, k])
    return table.rows(n, **{**given, **values})


def write_labels(path, rows, names=LABELS, header=None, row_header=None, table=None):
    """A labels product; `rows` of label_rows. Returns the path."""
    table = table or schema.labels_table(names)
    with stream.create(path, "labels", table, len(rows), [], header or {"MODEL": "ACGS", "SURVEY": "apogee",
                                                                        "SCALE": "galah"}, [], None, True,
                       row_header) as out:
        out.write(rows)
    return path


def read(path):
    """(rows, Source) of a product; the Source is closed but its headers can be looked at."""
    with stream.open_source(path, verify=True) as source:
        return source.read(), source


def sums(path):
    """{extension: DATASUM} of a product, END left out."""
    with stream.open_source(path, verify=True) as source:
        return source.datasums()
