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


def training_labels(rng, n, names=LABELS):
    k = [LABELS.index(x) for x in names]
    return CENTRE[k] + SIGMA[k] * rng.normal(size=(n, len(k)))


def write_model(path, rng, n_train=300, names=LABELS, survey="apogee", scale="galah", name="ACGS", rms=None):
    """A model product with random coefficients on ten pixels; training stars 2M00000000, 2M00000001, ...

    Returns (path, labels of the training stars).
    """
    from cannonkit import model
    from cannonkit.stages import vectorizer

    k = [LABELS.index(x) for x in names]
    labels = training_labels(rng, n_train, names)
    low, pivot, high = vectorizer.scaling_of(labels)
    powers = vectorizer.powers_of(len(names))
    units = tuple(schema.LABELS[x].unit for x in names)
    training = schema.model_training_table(names).empty(n_train)
    training["id"] = training["star_id"] = star_names(n_train)
    training["used"] = 1
    for i, x in enumerate(names):
        training[x] = labels[:, i]
    rms = 4 * FORMAL[k] if rms is None else rms
    model.Model(
        wavelength=np.linspace(15000.0, 15010.0, 10), segment=np.zeros(10, np.int16), medium="vacuum",
        theta=0.01 * rng.normal(size=(10, len(powers))), s2=np.full(10, 1e-4), pixel_status=np.zeros(10, np.int32),
        n_good=np.full(10, n_train, np.int32), ivar_scale=np.ones(10), censor=np.ones((10, len(names)), np.uint8),
        powers=powers, label_names=tuple(names), label_units=units, low=low, pivot=pivot, high=high,
        bias=np.zeros(len(names)), scatter=rms, rms=rms, training=training, survey=survey, scale_survey=scale,
        name=name).write(path, overwrite=True)
    return path, labels


def write_survey(path, survey, ids, star_ids, rng, snr=None, **values):
    """A selection of one survey as cc-crossmatch writes it: a training product. Returns the path."""
    n = len(ids)
    table = schema.training_table([survey], LABELS)
    labels = training_labels(rng, n)
    given = {"id": ids, "star_id": star_ids, "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-90, 90, n),
             "snr": rng.uniform(20, 200, n) if snr is None else snr, "flag_spectra": 0, "flag_sp": 0, "flag_survey": 0,
             "dr3_source_id": 2**60 + np.arange(n), "dr2_source_id": 2**61 + np.arange(n),
             "parallax": rng.uniform(0.1, 5, n), "e_parallax": 0.02, "r_est": 1000.0, "r_lo": 900.0, "r_hi": 1100.0}
    for i, x in enumerate(LABELS):
        given[x], given[f"e_{x}"] = labels[:, i], FORMAL[i]
    given.update(values)
    rows = table.rows(n, selected=1, reject=given.pop("reject", 0),
                      **{f"{survey}_{k}": v for k, v in given.items()})
    with stream.create(path, "training", table, n, [], {"SURVEY": survey}, [], None, True) as out:
        out.write(rows)
    return path


def run_examples(name, text, folder, inside):
    """Run every example of a help text in `folder`: alone in this process, pipes and patterns with bash."""
    import os
    import shlex
    import subprocess
    import sys
    from pathlib import Path

    lines = [line.strip() for line in text[text.index("Examples:"):].splitlines() if f"cc-{name} " in line]
    assert len(lines) >= 3
    before = Path.cwd()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        os.chdir(folder)
        for line in lines:
            if set("|<*") & set(line):
                done = subprocess.run(["bash", "-o", "pipefail", "-c", line], env=env, capture_output=True, text=True)
                assert done.returncode == 0, (line, done.stderr)
            else:
                assert inside(name, *shlex.split(line)[1:]) == 0, line
    finally:
        os.chdir(before)
