"""Spectra drawn from a Cannon model: a real model's structure, with switches for what a model may find hard.

Labels are those of the model's training stars, moved by 5 % of their range; the spectra have the model's scatter,
photon noise, and, if the settings say so, hidden elements, waves in the continuum and a line-spread function that
varies. Everything random comes from the seed and the spectrum's number.
"""

import numpy as np

from cannonkit import schema
from cannonkit.kernels import mock_model as kernel
from cannonkit.stages import mock_spectra, mock_surveys

N_HIDDEN = 3
HIDDEN_DEPTH = 0.01  # rms change of flux in the middle of a line of a hidden element
LINES_APART = 60     # pixels between such lines, on average
SNR = {"apogee": (165.0, 0.45), "galah": (52.0, 0.38)}  # median, spread of its logarithm: as the survey's common stars


def truth_table(model):
    """schema.Table of the truth of such spectra."""
    c = schema.Column
    units = dict(zip(model.label_names, model.label_units, strict=True))
    return schema.Table("TRUTH", (
        c("survey", "S8", "", "apogee or galah"),
        c("id", f"S{schema.ID_WIDTH}", "", "name of the spectrum"),
        c("star_id", "S32", "", "name of the star"),
        c("number", "i8", "", "key of what is random in the spectrum"),
        c("snr", "f8", "", "S/N per pixel at flux 1"),
        *(c(name, "f8", units[name], f"{name}: truth") for name in model.label_names),
        *(c(f"survey_{name}", "f8", units[name], f"{name} with the survey's error") for name in model.label_names),
        c("lsf", "f8", "", "width of the line-spread function over the usual one"),
        c("hidden", "f8", "", "strength of hidden elements, in units of their scatter", (N_HIDDEN,)),
    ))


class Stream:
    """Makes spectra of a model.

    model, settings (config.Mock), survey 'apogee' or 'galah'
    """

    def __init__(self, model, survey, settings):
        self.model, self.survey, self.settings = model, survey, settings
        self.known = model.training_labels
        self.table = truth_table(model)
        segment = np.asarray(model.segment)
        edges = np.flatnonzero(np.diff(segment)) + 1
        starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [segment.size]])
        self.stretches = np.stack([starts, stops], axis=1).astype(np.int64)
        sigma = np.mean(mock_spectra.APOGEE_SIGMA) if survey == "apogee" else mock_spectra.GALAH_SIGMA
        step = np.abs(np.gradient(model.wavelength)) / model.wavelength * 299792.458
        self.width = sigma / step
        self.theta = np.ascontiguousarray(np.where(model.usable[:, None], model.theta, 0.0).T)
        self.s2 = np.where(model.usable, model.s2, 0.0)
        self.patterns = self._patterns()

    def _patterns(self):
        """(N_HIDDEN, n_pix) flux per unit of each hidden element: lines of the instrument's width at random pixels."""
        rng = np.random.default_rng([self.settings.seed, 92])
        pixel = np.arange(self.model.n_pix)
        out = np.zeros((N_HIDDEN, pixel.size))
        for h in range(N_HIDDEN if self.settings.hidden else 0):
            for centre in rng.choice(pixel.size, max(1, pixel.size // LINES_APART), replace=False):
                near = slice(max(0, centre - 12), centre + 13)
                depth = HIDDEN_DEPTH * rng.uniform(0.5, 1.4)
                out[h, near] -= depth * np.exp(-0.5 * ((pixel[near] - centre) / self.width[near]) ** 2)
        return out

    def truth(self, first, n):
        """Truth rows `first` to first + n - 1."""
        number = first + np.arange(n)
        n_label = len(self.model.label_names)
        u = mock_spectra.uniform(self.survey, number, 2002, 2 * (2 * n_label + N_HIDDEN + 2) + 1, self.settings)
        z = mock_spectra.normal(u[:, 1::2], u[:, 2::2])
        star = np.minimum((u[:, 0] * len(self.known)).astype(int), len(self.known) - 1)
        labels = self.known[star] + 0.05 * self.model.scale * z[:, :n_label]
        out = np.zeros(n, self.table.dtype)
        out["survey"], out["number"] = self.survey.encode(), number
        out["id"] = out["star_id"] = np.char.add(b"mock", np.char.zfill(number.astype("S12"), 12))
        median, spread = SNR[self.survey]
        out["snr"] = np.clip(median * np.exp(spread * z[:, -1]), 6.0, 900.0)
        out["lsf"] = np.clip(1.0 + 0.035 * z[:, -2] * self.settings.lsf_variation, 0.85, 1.15)
        out["hidden"] = z[:, 2 * n_label : 2 * n_label + N_HIDDEN] * self.settings.hidden
        for i, name in enumerate(self.model.label_names):
            out[name] = labels[:, i]
            error = np.zeros(n)
            if self.settings.label_noise and name in mock_surveys.ERROR:
                giants, dwarfs = mock_surveys.ERROR[name][0 if self.survey == "apogee" else 1]
                error = np.where(labels[:, self.model.label_names.index("logg")] < 3.5, giants, dwarfs) \
                    if "logg" in self.model.label_names else np.full(n, dwarfs)
            out[f"survey_{name}"] = labels[:, i] + error * z[:, n_label + i]
        return out

    def fill(self, truth, rows):
        """Fill snr, n_bad, status, flux, ivar of `rows` (of a spectra table) for truth rows, as many."""
        model, settings, n = self.model, self.settings, len(truth)
        labels = schema.label_array(truth, model.label_names)
        clean = model.design(labels) @ self.theta
        flux, ivar = np.empty(clean.shape, np.float32), np.empty(clean.shape, np.float32)
        snr, bad = np.empty(n), np.empty(n, np.int64)
        native = {name: np.ascontiguousarray(schema.native(truth[name])) for name in ("lsf", "hidden", "number", "snr")}
        kernel.observe_model(clean, self.s2, model.usable, self.stretches, settings.growth, self.patterns,
                             native["hidden"], native["lsf"], self.width,
                             mock_spectra.WIGGLE[self.survey] * settings.wiggles, settings.junk, native["number"],
                             settings.seed, mock_spectra.SURVEY_KEY[self.survey], native["snr"], flux, ivar, snr, bad)
        rows["flux"], rows["ivar"], rows["snr"], rows["n_bad"], rows["status"] = flux, ivar, snr, bad, 0
