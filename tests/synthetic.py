"""A made-up model and spectra drawn from it, for the tests of inference. No physics: lines of random shape."""
import numpy as np

from cannonkit import model as models
from cannonkit import schema, stream
from cannonkit.stages import vectorizer

NAMES = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad", "a", "b", "c", "d")
CENTRE = np.array([5000.0, 3.0, -0.2, 0.1, 1.3, 8.0, 0.0, 0.0, 0.0, 0.0])
SPREAD = np.array([500.0, 0.75, 0.3, 0.09, 0.2, 3.0, 0.25, 0.25, 0.25, 0.25])


def make_model(rng, n_pix=400, n_label=3, order=2, scatter=0.003, powers=None, n_train=200, unusable=0.02,
               curvature=0.25):
    """A model.Model: 0.1 deep lines, a scatter that is 0 in 30 % of the pixels, some unusable pixels."""
    names = NAMES[:n_label]
    powers = vectorizer.powers_of(n_label, order) if powers is None else np.asarray(powers)
    degree = powers.sum(axis=1)
    lines = rng.random(n_pix) ** 4
    theta = rng.normal(size=(n_pix, len(powers))) * lines[:, None] * 0.1 * curvature ** (degree - 1.0)
    theta[:, degree == 0] = 1.0 - 0.2 * rng.random((n_pix, 1)) ** 3
    s2 = (scatter * (0.5 + rng.random(n_pix))) ** 2
    s2[rng.random(n_pix) < 0.3] = 0.0
    bad = rng.random(n_pix) < unusable
    theta[bad], s2[bad] = 0.0, np.inf
    labels = CENTRE[:n_label] + SPREAD[:n_label] * rng.normal(size=(n_train, n_label))
    low, pivot, high = vectorizer.scaling_of(labels)
    training = np.zeros(n_train, schema.native(schema.model_training_table(names).empty(0)).dtype)
    training["id"] = training["star_id"] = [f"train{k:05d}".encode() for k in range(n_train)]
    training["used"] = 1
    for i, name in enumerate(names):
        training[name] = labels[:, i]
    unknown = np.full(n_label, np.nan)
    units = tuple(schema.label(n).unit for n in names)
    return models.Model(
        wavelength=15100.0 + 0.2 * np.arange(n_pix), segment=np.zeros(n_pix, np.int16), medium="vacuum", theta=theta,
        s2=s2, pixel_status=np.where(bad, 4, 0).astype(np.int32), n_good=np.full(n_pix, n_train, np.int32),
        ivar_scale=np.ones(n_pix), censor=np.ones((n_pix, n_label), np.uint8), powers=powers, label_names=names,
        label_units=units, low=low, pivot=pivot, high=high, bias=unknown, scatter=unknown, rms=unknown,
        training=training, survey="apogee", scale_survey="galah", name="ACGS")


def draw(rng, model, n, snr=100.0, masked=0.03, labels=None, spread=1.0):
    """(labels, flux, ivar) of n spectra: truth, model flux with noise (1 / snr and the scatter), float32.

    Unusable pixels of the model hold plain numbers, so that using one shows.
    """
    n_label = model.n_label
    if labels is None:
        labels = CENTRE[:n_label] + spread * SPREAD[:n_label] * rng.normal(size=(n, n_label))
    flux = model.predict(labels)
    flux[:, ~model.usable] = 0.5
    sigma = np.broadcast_to(1.0 / np.asarray(snr, float), (n,))[:, None]
    s2 = np.where(model.usable, model.s2, 0.0)
    flux = flux + rng.normal(size=flux.shape) * np.sqrt(sigma ** 2 + s2)
    ivar = np.broadcast_to(sigma ** -2.0, flux.shape).copy()
    ivar[rng.random(ivar.shape) < masked] = 0.0
    return labels, flux.astype(np.float32), ivar.astype(np.float32)


def labels_of(rows, model):
    """(n_star, n_label) of result rows."""
    return np.stack([np.asarray(rows[n], float) for n in model.label_names], axis=1)


def errors_of(rows, model):
    """(n_star, n_label) formal errors."""
    return np.stack([np.asarray(rows[f"e_{n}"], float) for n in model.label_names], axis=1)


def write_spectra(path, model, flux, ivar, status=0, ids=None, survey="apogee", wavelength=None, medium="vacuum"):
    """A spectra product on the model's grid; ids star00000, star00001, ... Returns the path."""
    n, n_pix = flux.shape
    table = schema.spectra_table(n_pix, 8)
    ids = np.array([f"star{k:05d}".encode() for k in range(n)]) if ids is None else ids
    status = np.broadcast_to(status, n)
    grid = schema.WAVELENGTH.rows(n_pix, wavelength=model.wavelength if wavelength is None else wavelength,
                                  segment=np.zeros(n_pix, np.int16))
    extension = stream.Extension("WAVELENGTH", grid, schema.WAVELENGTH, {"MEDIUM": (medium, "")})
    with stream.create(path, "spectra", table, n, [extension], {"SURVEY": survey}, [], None, True) as out:
        for at in range(0, n, 256):
            part = slice(at, at + 256)
            out.write(table.rows(len(flux[part]), id=ids[part], star_id=ids[part], visit=0, snr_survey=50.0,
                                 status=status[part], flux=flux[part], ivar=ivar[part]))
    return path
