"""The spectral model: coefficients and scatter of every pixel, label scaling, cross-validation.

One dataclass of plain arrays (paper equations 1 to 3). Flux is continuum-normalised, wavelengths in Angstrom,
labels in their own units. An unusable pixel has theta 0, s2 infinite and a bit of bitmasks.PIXEL_UNUSABLE.
"""
from dataclasses import dataclass, field

import numpy as np

from cannonkit import bitmasks, schema
from cannonkit.errors import DataError, did_you_mean
from cannonkit.kernels import vectorizer

MAX_DEGREE = 10     # of a term, in a file that is read


@dataclass
class Model:
    """A trained model. Shapes: n_pix pixels, n_term terms, n_label labels.

    wavelength (n_pix,) f8 Angstrom; segment (n_pix,) i2; medium 'air' or 'vacuum'
    theta (n_pix, n_term) f8; s2 (n_pix,) f8, excess variance (inf: pixel unusable)
    pixel_status (n_pix,) i4, bits of bitmasks.PIXEL_STATUS; n_good (n_pix,) i4, stars with data in the pixel
    ivar_scale (n_pix,) f8: what the survey's inverse variances are multiplied with, here and in cc-infer
    censor (n_pix, n_label) u1: 1 = the label acts in this pixel, 0 = it and its cross terms are zero there
    powers (n_term, n_label) i8: the terms; term 0 is the constant
    label_names, label_units; low, pivot, high (n_label,): percentiles 2.5, 50, 97.5 of the training labels
    bias, scatter, rms (n_label,): cross-validated minus input label: mean, (84-16)/2, root mean square;
    NaN without cross-validation
    training: structured rows (native) with id, star_id, used, fold, the labels, cv_<label>, cv_cov
    components (n_pix, K) f8, strength (K,): misfit components U and the squared signal-to-noise ratio of one unit of
    each in a mean training spectrum (design.md 5); K = 0: the classic model
    survey (of the spectra), scale_survey (of the labels), name, options: what the header says of the training
    """

    wavelength: np.ndarray
    segment: np.ndarray
    medium: str
    theta: np.ndarray
    s2: np.ndarray
    pixel_status: np.ndarray
    n_good: np.ndarray
    ivar_scale: np.ndarray
    censor: np.ndarray
    powers: np.ndarray
    label_names: tuple
    label_units: tuple
    low: np.ndarray
    pivot: np.ndarray
    high: np.ndarray
    bias: np.ndarray
    scatter: np.ndarray
    rms: np.ndarray
    training: np.ndarray
    survey: str = ""
    scale_survey: str = ""
    name: str = ""
    options: dict = field(default_factory=dict)
    components: np.ndarray | None = None
    strength: np.ndarray | None = None

    def __post_init__(self):
        if self.components is None:
            self.components, self.strength = np.empty((len(self.s2), 0)), np.empty(0)

    @property
    def n_component(self):
        return self.components.shape[1]

    @property
    def n_pix(self):
        return self.theta.shape[0]

    @property
    def n_term(self):
        return self.theta.shape[1]

    @property
    def n_label(self):
        return len(self.label_names)

    @property
    def scale(self):
        """(n_label,) p97.5 - p2.5: label units of one unit of the scaled label (equation 2)."""
        return self.high - self.low

    @property
    def usable(self):
        """(n_pix,) bool: pixels that say something about the labels."""
        return np.isfinite(self.s2) & (self.pixel_status & bitmasks.PIXEL_UNUSABLE == 0)

    @property
    def training_labels(self):
        """(n_used, n_label) f8: labels of the stars that the model was trained on."""
        rows = self.training[self.training["used"] != 0]
        return np.stack([np.asarray(rows[n], np.float64) for n in self.label_names], axis=1)

    def label_index(self, name):
        """Place of a label. DataError naming the model's labels if it has none of that name."""
        if name not in self.label_names:
            raise DataError(f"the model has no label {name!r}{did_you_mean(name, self.label_names)}")
        return self.label_names.index(name)

    def crossval_rms(self, names):
        """Cross-validation RMS of the named labels, in label units: K of equation 5.

        DataError if a label is not in the model or the model was trained without cross-validation.
        """
        rms = np.array([self.rms[self.label_index(n)] for n in names], dtype=np.float64)
        bad = [n for n, value in zip(names, rms, strict=True) if not (np.isfinite(value) and value > 0)]
        if bad:
            raise DataError(f"the model has no cross-validation RMS of {', '.join(bad)}: "
                            "train it with cc-train --cross-validate 12")
        return rms

    def scaled(self, labels):
        """Scaled labels (n_star, n_label) of equation 2. NaN stays NaN."""
        return (np.atleast_2d(np.asarray(labels, dtype=np.float64)) - self.pivot) / self.scale

    def design(self, labels):
        """Terms (n_star, n_term) f8 of equation 1 for labels (n_star, n_label) in label units; NaN stays NaN."""
        return vectorizer.design_matrix(self.scaled(labels), self.powers)

    def predict(self, labels, z=None):
        """Model flux (n_star, n_pix) f8 for labels (n_star, n_label) in label units, and z (n_star, K) if given.

        A label that is NaN gives a NaN spectrum; unusable pixels are NaN.
        """
        flux = self.design(labels) @ self.theta.T
        if z is not None:
            flux += z @ self.components.T
        flux[:, ~self.usable] = np.nan
        return flux

    def write(self, path, *, sources=(), record=None, overwrite=False):
        """Write the model product: WAVELENGTH, THETA, S2, PIXELS, CENSOR, LABELS, TERMS, TRAINING."""
        from cannonkit import stream

        names, units = self.label_names, dict(zip(self.label_names, self.label_units, strict=True))
        labels = schema.MODEL_LABELS.rows(
            self.n_label, name=[n.encode() for n in names], unit=[u.encode() for u in self.label_units],
            p2_5=self.low, p50=self.pivot, p97_5=self.high, bias=self.bias, scatter=self.scatter, rms=self.rms)
        extensions = [
            stream.Extension("WAVELENGTH", schema.WAVELENGTH.rows(
                self.n_pix, wavelength=self.wavelength, segment=self.segment), schema.WAVELENGTH,
                {"MEDIUM": (self.medium, "air or vacuum"), "SURVEY": self.survey}),
            stream.Extension("THETA", np.asarray(self.theta, np.float64)),
            stream.Extension("S2", np.asarray(self.s2, np.float64)),
            stream.Extension("PIXELS", schema.MODEL_PIXELS.rows(
                self.n_pix, status=self.pixel_status, n_good=self.n_good, ivar_scale=self.ivar_scale),
                schema.MODEL_PIXELS, schema.bit_cards("STAT", bitmasks.PIXEL_STATUS)),
            stream.Extension("CENSOR", np.asarray(self.censor, np.uint8)),
            stream.Extension("LABELS", labels, schema.MODEL_LABELS),
            stream.Extension("TERMS", np.asarray(self.powers, np.int32)),
        ]
        if self.n_component:
            extensions.append(stream.Extension("COMPONENTS", schema.model_components_table(self.n_pix).rows(
                self.n_component, strength=self.strength, loading=self.components.T),
                schema.model_components_table(self.n_pix)))
        header = {"SURVEY": (self.survey, "survey of the spectra"),
                  "SCALE": (self.scale_survey, "survey whose labels were trained on"),
                  "MODEL": (self.name, "name of the model"),
                  "SCATTER": (str(self.options.get("scatter", "")), "rule for the scatter s2"),
                  "L1": (float(self.options.get("l1", 0.0)), "L1 penalty of the coefficients"),
                  "NFOLD": (int(self.options.get("n_fold", 0)), "folds of the cross-validation")}
        for i, (l1, value) in enumerate(self.options.get("l1_curve", ()), 1):
            header[f"L1LAM{i}"] = (float(l1), "a penalty that was tried")
            header[f"L1CV{i}"] = (float(value), "its cross-validated -2 ln L per pixel and star")
        if self.options.get("label_errors"):
            header["LABELERR"] = (self.options["label_errors"], "labels in training: exact, or with known errors")
        for i, (n, value) in enumerate(self.options.get("components_curve", ()), 1):
            header[f"KTRY{i}"] = (int(n), "a number of components that was tried")
            header[f"KCV{i}"] = (float(value), "its cross-validated -2 ln L per pixel and star")
        table = schema.model_training_table(names, units)
        with stream.create(path, "model", table, len(self.training), extensions, header, sources, record,
                           overwrite) as out:
            out.write(self.training)


def read(path):
    """The Model in a file (or `-`, a pipe). Raises DataError where it is no model or its parts disagree."""
    from cannonkit import stream

    with stream.open_source(path, "model") as source:
        return from_source(source)


def from_source(source):
    """The Model of an open source (stream.open_source); reads its rows to the end."""
    parts = source.extensions
    for name in ("WAVELENGTH", "THETA", "S2", "PIXELS", "CENSOR", "LABELS", "TERMS"):
        if name not in parts:
            raise DataError(f"{source.name}: a model without the extension {name}: damaged")
    header, wavelength, pixels = source.header, parts["WAVELENGTH"], parts["PIXELS"].data
    labels = parts["LABELS"].data
    names = tuple(str(n) for n in schema.text(labels["name"]))
    theta = np.ascontiguousarray(parts["THETA"].data, np.float64)
    powers = np.ascontiguousarray(parts["TERMS"].data, np.int64)
    n_pix, n_label = len(wavelength.data), len(names)
    wanted = {"THETA": (n_pix, len(powers)), "S2": (n_pix,), "CENSOR": (n_pix, n_label),
              "TERMS": (len(powers), n_label), "PIXELS": (n_pix,)}
    for name, shape in wanted.items():
        if parts[name].data.shape != shape:
            raise DataError(f"{source.name}[{name}]: shape {parts[name].data.shape}, expected {shape} from the other "
                            "extensions: damaged")
    _check_values(source.name, names, theta, parts["S2"].data, powers, labels, wavelength.data["wavelength"])
    source.require(["id", "star_id", "used", "fold"], numbers=names)
    curve = [(float(header[f"L1LAM{i}"]), float(header[f"L1CV{i}"])) for i in range(1, 100)
             if f"L1LAM{i}" in header]
    return Model(
        wavelength=np.ascontiguousarray(wavelength.data["wavelength"], np.float64),
        segment=np.ascontiguousarray(wavelength.data["segment"], np.int16),
        medium=str(wavelength.header["MEDIUM"]), theta=theta,
        s2=np.ascontiguousarray(parts["S2"].data, np.float64),
        pixel_status=np.ascontiguousarray(pixels["status"], np.int32),
        n_good=np.ascontiguousarray(pixels["n_good"], np.int32),
        ivar_scale=np.ascontiguousarray(pixels["ivar_scale"], np.float64),
        censor=np.ascontiguousarray(parts["CENSOR"].data, np.uint8), powers=powers, label_names=names,
        label_units=tuple(str(u) for u in schema.text(labels["unit"])),
        low=np.array(labels["p2_5"]), pivot=np.array(labels["p50"]), high=np.array(labels["p97_5"]),
        bias=np.array(labels["bias"]), scatter=np.array(labels["scatter"]), rms=np.array(labels["rms"]),
        training=source.read(), survey=str(header.get("SURVEY", "")), scale_survey=str(header.get("SCALE", "")),
        name=str(header.get("MODEL", "")),
        options={"scatter": str(header.get("SCATTER", "")), "l1": float(header.get("L1", 0.0)), "l1_curve": curve,
                 "n_fold": int(header.get("NFOLD", 0)), "label_errors": str(header.get("LABELERR", "")),
                 "components_curve": [(int(header[f"KTRY{i}"]), float(header[f"KCV{i}"])) for i in range(1, 100)
                                      if f"KTRY{i}" in header]},
        **_components(parts.get("COMPONENTS"), source.name, n_pix, parts["S2"].data))


def _components(part, place, n_pix, s2):
    """{components, strength} of the extension COMPONENTS; {} where the model has none."""
    if part is None:
        return {}
    rows = part.data
    if not {"strength", "loading"} <= set(rows.dtype.names or ()) or rows.dtype["loading"].shape != (n_pix,):
        raise DataError(f"{place}[COMPONENTS]: expected columns strength and loading, of {n_pix} numbers: damaged")
    components = np.ascontiguousarray(rows["loading"].T, np.float64)
    bad = np.flatnonzero(np.isfinite(s2) & ~np.isfinite(components).all(axis=1))
    if bad.size:
        raise DataError(f"{place}[COMPONENTS]: pixel {bad[0]}: a loading is not finite")
    return {"components": components, "strength": np.array(rows["strength"], np.float64)}


def _check_values(place, names, theta, s2, powers, labels, wavelength):
    """DataError where a model's numbers make no sense: another program made or changed the file."""
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{place}[LABELS]: names {list(names)}: expected distinct ones")
    for column in ("p2_5", "p50", "p97_5"):
        if not np.isfinite(labels[column]).all():
            raise DataError(f"{place}[LABELS]: column {column!r}: not finite")
    flat = np.flatnonzero(~(labels["p97_5"] > labels["p2_5"]))
    if flat.size:
        raise DataError(f"{place}[LABELS]: {names[flat[0]]}: p97_5 {labels['p97_5'][flat[0]]} is not above p2_5 "
                        f"{labels['p2_5'][flat[0]]}")
    if powers.size and (powers.min() < 0 or powers.sum(axis=1).max() > MAX_DEGREE):
        raise DataError(f"{place}[TERMS]: powers from {powers.min()} to {powers.max()}, "
                        "expected 0 or more and a degree "
                        f"of {MAX_DEGREE} at most")
    if not np.isfinite(wavelength).all():
        raise DataError(f"{place}[WAVELENGTH]: a wavelength is not finite")
    bad = np.flatnonzero(np.isnan(s2) | (s2 < 0))
    if bad.size:
        raise DataError(f"{place}[S2]: pixel {bad[0]}: {s2[bad[0]]}, expected 0 or more, or inf for an unusable pixel")
    bad = np.flatnonzero(np.isfinite(s2) & ~np.isfinite(theta).all(axis=1))
    if bad.size:
        raise DataError(f"{place}[THETA]: pixel {bad[0]}: a coefficient is not finite")
