"""Labels, covariance and chi2 of spectra (paper section 3.5, equation 4; design.md sections 3 and 4).

    fitter = infer.prepare(model, starts=4)          # made once per model
    rows = fitter.fit(flux, ivar, first_row=0)       # one structured row per star, in order
    rows = infer.fit(model, flux, ivar)              # both in one call

Every spectrum gives a row. One that cannot be fitted has NaN labels and a status that says why; it never
changes another row.
"""
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np

from cannonkit.bitmasks import FIT_STATUS, SPECTRUM_UNUSABLE
from cannonkit.errors import DataError, SettingError
from cannonkit.kernels import blas, minimise, pixels, sums
from cannonkit.kernels import infer as kernel
from cannonkit.kernels.terms import factors_of
from cannonkit.kernels.vectorizer import design_matrix

SOLVERS = ("auto", "sums", "pixels")

# Largest table of products of coefficients that 'auto' makes, in bytes (13 MB for 28 terms, 8,575 pixels).
LARGEST_TABLE = 512 << 20
# A star of which clipping would take more than this part of the pixels is not described by the model: it keeps them.
CLIP_MOST = 0.01

# Status bits of the states that the kernels return.
_STATE_BITS = {
    minimise.CONVERGED: 0,
    minimise.ITERATION_LIMIT: FIT_STATUS.ITERATION_LIMIT,
    minimise.SINGULAR: FIT_STATUS.SINGULAR,
    pixels.TOO_FEW_PIXELS: FIT_STATUS.TOO_FEW_PIXELS,
    pixels.NO_PIXELS: FIT_STATUS.NO_SPECTRUM | FIT_STATUS.TOO_FEW_PIXELS,
    pixels.NO_FIXED_VALUE: FIT_STATUS.NO_FIXED_VALUE,
}


_own = threading.local()       # each thread's scratch arrays, by shape


@cache
def _pool(n_thread):
    """The threads on which blocks of stars are fitted; kept, since making them takes as long as a block."""
    blas.require_room(n_thread)
    return ThreadPoolExecutor(n_thread, "fit")


def result_dtype(label_names, n_component=0):
    """Native dtype of the rows that `fit` returns: the columns of schema.labels_table after snr_survey.

    A model with n_component misfit components gives their amplitudes too: z.
    """
    names, n_label = list(label_names), len(label_names)
    return np.dtype([(n, "f8") for n in names] + [(f"e_{n}", "f8") for n in names] + [
        ("cov", "f8", (n_label, n_label)), ("chi2", "f8"), ("r_chi2", "f8"), ("snr", "f4"), ("snr_cannon", "f4"),
        ("n_pix_used", "i4"), ("n_pix_bad", "i4"), ("n_iter", "i4"), ("status", "i4"), ("second_delta_chi2", "f8")]
        + [(f"second_{n}", "f8") for n in names] + ([("z", "f8", (n_component,))] if n_component else []))


@dataclass(frozen=True)
class Fitter:
    """A model and options made ready for the kernels; see `prepare`. The arrays are those of kernels/infer.py."""

    model: object
    solver: str
    constant: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    ivar_scale: np.ndarray
    starts: np.ndarray
    linear: np.ndarray
    free: np.ndarray
    training_low: np.ndarray
    training_high: np.ndarray
    margin: float
    label: np.ndarray
    power: np.ndarray
    prior_mean: np.ndarray
    prior_ivar: np.ndarray
    max_iter: int
    scaled_covariance: bool
    clip: float
    tiles: tuple            # what only the compressed solver uses; see `_tiles`

    @property
    def dtype(self):
        return result_dtype(self.model.label_names, self.model.n_component)

    @property
    def fixed_names(self):
        """Labels that are held at given values, in the model's order."""
        return tuple(n for i, n in enumerate(self.model.label_names) if i not in self.free)

    def fit(self, flux, ivar, first_row=0, fixed=None, spectrum_status=None):
        """Fit spectra: rows of `dtype`, one per star.

        flux, ivar       (n_star, n_pix) float32 of any byte order (float64 is rounded to it); ivar 0, NaN,
                         infinite, negative or subnormal and NaN flux leave a pixel out
        first_row        place of the first star in its table; only its remainder by 64 matters, and only
                         in the last bits
        fixed            (n_star, len(fixed_names)) values, in label units, of the labels that are held
        spectrum_status  (n_star,) words of bitmasks.SPECTRUM_STATUS; unusable spectra are not tried
        Raises DataError where the number of pixels is not the model's.
        """
        flux, ivar = np.asarray(flux), np.asarray(ivar)
        if flux.ndim != 2 or flux.shape != ivar.shape or flux.shape[1] != self.model.n_pix:
            raise DataError(f"spectra of shape {flux.shape} (flux) and {ivar.shape} (ivar); "
                            f"the model has {self.model.n_pix} pixels")
        if flux.dtype != ivar.dtype or flux.dtype.str[1:] != "f4":
            with np.errstate(over="ignore"):
                flux, ivar = flux.astype(np.float32), ivar.astype(np.float32)
        return self._start(_as_bytes(flux), 0, _as_bytes(ivar), 0, not flux.dtype.isnative,
                           first_row, fixed, spectrum_status)()

    def fit_rows(self, rows, first_row=0, fixed=None):
        """The same for rows of a spectra table, (n_star,) structured with flux, ivar and status, as they were read."""
        return self.start_rows(rows, first_row, fixed)()

    def start_rows(self, rows, first_row=0, fixed=None):
        """Begin `fit_rows` on other threads: call what is returned for the result; leave `rows` alone until then.

        Chunks that are begun one after the other leave no thread idle between them.
        """
        names = rows.dtype.names or ()
        for name in ("flux", "ivar"):
            if name not in names or rows.dtype[name].base.str[1:] != "f4" \
                    or rows.dtype[name].shape != (self.model.n_pix,) \
                    or rows.dtype[name].base != rows.dtype["flux"].base:
                raise DataError(f"column {name!r} of the spectra is not {self.model.n_pix} float32 a row")
        rows = np.ascontiguousarray(rows)
        data = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
        status = rows["status"] if "status" in names else None
        return self._start(data, rows.dtype.fields["flux"][1], data, rows.dtype.fields["ivar"][1],
                           not rows.dtype["flux"].base.isnative, first_row, fixed, status)

    def _start(self, flux, flux_at, ivar, ivar_at, swap, first_row, fixed, spectrum_status):
        model, n_star, n_label = self.model, len(flux), self.model.n_label
        held = np.full((n_star, n_label), np.nan)
        if self.fixed_names:
            values = np.asarray(fixed, dtype=np.float64).reshape(n_star, len(self.fixed_names))
            index = [model.label_index(n) for n in self.fixed_names]
            held[:, index] = (values - model.pivot[index]) / model.scale[index]
        x, second = np.empty((n_star, n_label)), np.empty((n_star, n_label))
        cov, numbers = np.empty((n_star, n_label, n_label)), np.empty((n_star, 4))
        counts, z = np.empty((n_star, 4), dtype=np.int64), np.empty((n_star, model.n_component))
        model_arrays = (self.constant, self.theta, self.s2, self.ivar_scale)
        low, high = self.training_low - self.margin, self.training_high + self.margin
        found = (x, cov, second, numbers, counts, z)
        before = (self.starts, self.linear, self.free)
        after = (low, high, self.label, self.power, self.prior_mean, self.prior_ivar, self.max_iter)

        def over_pixels(first, n_row, data, held, found):
            pixels.fit_stars(first, n_row, *data, *model_arrays, *before, held, *after, *found)

        def solve(first, n_row, place, data, held, found):
            if self.solver == "pixels":
                over_pixels(first, n_row, data, held, found)
                return
            kernel.fit_block(first, n_row, place, *data, *model_arrays, *self.tiles, *before, held, *after,
                             self._scratch(), *found)
            counts = found[4]
            for m in first + np.flatnonzero(counts[first:first + n_row, 3] == pixels.TRY_PIXELS):
                n_iter = counts[m, 2]
                over_pixels(m, 1, data, held, found)
                counts[m, 2] += n_iter

        def work(first, n_row, place):
            solve(first, n_row, place, (flux, flux_at, ivar, ivar_at, swap), held, found)
            if self.clip and n_row:
                rows = slice(first, first + n_row)
                data = self._clipped(flux[rows], flux_at, ivar[rows], ivar_at, swap, place, x[rows], z[rows])
                if data is not None:
                    solve(0, n_row, place, data, held[rows], tuple(a[rows] for a in found))

        work(0, 0, 0)               # no star: where the kernel has to be loaded or compiled, that is here
        offset, started = first_row % sums.BLOCK, []
        for start in range(-offset, n_star, sums.BLOCK):
            first = max(start, 0)
            n_row = min(start + sums.BLOCK, n_star) - first
            started.append(_pool(numba.get_num_threads()).submit(work, first, n_row, first - start))

        def finish():
            for one in started:
                one.result()
            return self._rows(x, cov, second, numbers, counts, z, spectrum_status)

        return finish

    def _clipped(self, flux, flux_at, ivar, ivar_at, swap, place, x, z):
        """(flux, 0, ivar, 0, False) as bytes, ivar 0 where a pixel is `clip` errors from the fit at x, z; or None.

        A star with more such pixels than CLIP_MOST of its own keeps them: the model does not describe it.
        """
        kind = np.dtype(np.float32).newbyteorder("S" if swap else "=")
        n_row, n_pix = len(x), self.model.n_pix
        flux, ivar = (np.ascontiguousarray(a[:, at:at + 4 * n_pix]).view(kind).astype(np.float32)
                      for a, at in ((flux, flux_at), (ivar, ivar_at)))
        powers = np.asarray(self.model.powers)
        terms = np.zeros((sums.BLOCK, self.theta.shape[1]))          # a row's place as in the kernel
        terms[place:place + n_row] = np.concatenate([design_matrix(x, powers[powers.sum(axis=1) > 0]), z], axis=1)
        fitted = (self.constant + terms @ self.theta.T)[place:place + n_row]
        with np.errstate(all="ignore"):
            good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
            ratio = ivar * self.ivar_scale
            bad = good & ((flux - fitted) ** 2 * ratio / (1.0 + ratio * self.s2) > self.clip ** 2)
        bad[bad.sum(axis=1) > CLIP_MOST * good.sum(axis=1)] = False
        if not bad.any():
            return None
        ivar[bad] = 0.0
        return _as_bytes(flux), 0, _as_bytes(ivar), 0, False

    def _scratch(self):
        """This thread's scratch arrays."""
        shape = (*self.tiles[1].shape, self.theta.shape[1], len(self.label))
        if shape not in _own.__dict__:
            _own.__dict__[shape] = sums.scratch(*shape)
        return _own.__dict__[shape]

    def _rows(self, x, cov, second, numbers, counts, z, spectrum_status):
        """Kernel output in label units, with status words."""
        model, names = self.model, self.model.label_names
        status = np.zeros(len(x), dtype=np.int64)
        for state, bits in _STATE_BITS.items():
            status[counts[:, 3] == state] |= bits
        failed = np.isin(counts[:, 3], (minimise.SINGULAR, pixels.TOO_FEW_PIXELS, pixels.NO_PIXELS,
                                        pixels.NO_FIXED_VALUE))
        if spectrum_status is not None:
            unusable = (np.asarray(spectrum_status).astype(np.int64) & SPECTRUM_UNUSABLE) != 0
            status[unusable] = FIT_STATUS.NO_SPECTRUM
            failed |= unusable
        for array in (x, cov, second, numbers[:, :2], z):
            array[failed] = np.nan
        status[~np.isnan(numbers[:, 1])] |= FIT_STATUS.SECOND_MINIMUM
        status[counts[:, 1] > 0] |= FIT_STATUS.BAD_PIXELS_MASKED
        scaled_low, scaled_high = model.scaled(model.low)[0], model.scaled(model.high)[0]
        with np.errstate(invalid="ignore"):
            edge = ((x < scaled_low) | (x > scaled_high)).any(axis=1)
            outside = ((x < self.training_low) | (x > self.training_high)).any(axis=1)
        status[edge] |= FIT_STATUS.AT_EDGE
        status[outside] |= FIT_STATUS.OUTSIDE_TRAINING

        rows = np.zeros(len(x), self.dtype)
        unit_cov = cov * np.outer(model.scale, model.scale)
        for i, name in enumerate(names):
            rows[name] = x[:, i] * model.scale[i] + model.pivot[i]
            rows[f"second_{name}"] = second[:, i] * model.scale[i] + model.pivot[i]
            rows[f"e_{name}"] = np.sqrt((cov if self.scaled_covariance else unit_cov)[:, i, i])
        rows["cov"] = cov if self.scaled_covariance else unit_cov
        rows["chi2"], rows["second_delta_chi2"] = numbers[:, 0], numbers[:, 1]
        freedom = counts[:, 0] - len(self.free)
        rows["r_chi2"] = np.where(freedom > 0, numbers[:, 0] / np.maximum(freedom, 1), np.nan)
        rows["snr"], rows["snr_cannon"] = numbers[:, 2], numbers[:, 3]
        rows["n_pix_used"], rows["n_pix_bad"], rows["n_iter"] = counts[:, 0], counts[:, 1], counts[:, 2]
        rows["status"] = status
        if z.shape[1]:
            rows["z"] = z
        return rows


def prepare(model, *, solver="auto", starts=0, seed=1, max_iter=50, margin=0.5, prior=None, fixed=(),
            scaled_covariance=False, clip=0.0):
    """A Fitter for a model.Model.

    solver             'sums' (compressed), 'pixels' (every iteration over the pixels), or 'auto'
    starts, seed       extra starts besides the pivot and the linear solution: labels of `starts` training
                       stars
    max_iter           iterations from one start
    margin             a minimum is preferred if every label lies within the range of the training set,
                       widened on both sides by this many times (p97.5 - p2.5); the lowest chi2 among those
                       wins
    prior              {label: (mean, sigma)} in label units: Gaussian; its information is in the covariance,
                       its term is not in chi2
    fixed              names of labels that are held at values given to `fit`; their covariance is 0
    scaled_covariance  cov and e_<label> in units of the scaled labels, as behind the paper's Table 4
    clip               pixels so many errors from the fit are left out of a second one; 0: no second fit
    Raises DataError for unknown labels, a model whose coefficients are not finite, or no free label.
    """
    if solver not in SOLVERS:
        raise DataError(f"solver {solver!r}: expected one of {', '.join(SOLVERS)}")
    names, powers = model.label_names, np.asarray(model.powers, dtype=np.int64)
    flat = [n for n, width in zip(names, model.scale, strict=True) if not (np.isfinite(width) and width > 0)]
    if flat:
        raise DataError(f"the model's training labels do not vary in {', '.join(flat)}: p97.5 is not above p2.5")
    usable = np.asarray(model.usable)
    theta, s2 = np.asarray(model.theta, np.float64), np.asarray(model.s2, np.float64)
    if not np.isfinite(theta[usable]).all() or not (s2[usable] >= 0).all():
        raise DataError("the model has a usable pixel with a coefficient that is not finite or a negative s2")
    theta = np.where(usable[:, None], theta, 0.0)
    components = np.where(usable[:, None], np.asarray(model.components, np.float64), 0.0)
    is_constant = (powers == 0).all(axis=1)
    held = [model.label_index(n) for n in fixed]
    free = np.array([i for i in range(len(names)) if i not in held], dtype=np.int64)
    if free.size == 0:
        raise DataError("every label is fixed: there is nothing to fit")
    prior_mean, prior_ivar = np.zeros(len(names)), np.zeros(len(names))
    for name, (mean, sigma) in dict(prior or {}).items():
        i = model.label_index(name)
        if not (np.isfinite(mean) and sigma > 0):
            raise SettingError(f"prior of {name!r}: mean {mean}, sigma {sigma}; expected a number and one above 0",
                               "prior")
        prior_mean[i] = (mean - model.pivot[i]) / model.scale[i]
        prior_ivar[i] = (model.scale[i] / sigma) ** 2

    training = model.scaled(model.training_labels) if len(model.training) else np.empty((0, len(names)))
    training = training[np.isfinite(training).all(axis=1)]
    box = model.scaled(np.stack([model.low, model.high]))
    everything = np.concatenate([training, box])
    chosen = training if len(training) else box
    random = np.random.default_rng(seed)
    extra = chosen[random.integers(len(chosen), size=starts)] if starts else chosen[:0]

    label, power = factors_of(powers[~is_constant])
    unit = np.eye(len(names), dtype=np.int64)
    linear = np.full(len(names), -1, dtype=np.int64)
    for k, row in enumerate(powers[~is_constant]):
        for i in range(len(names)):
            if (row == unit[i]).all():
                linear[i] = k
    arrays = (np.ascontiguousarray(theta[:, is_constant].sum(axis=1)),
              np.ascontiguousarray(np.concatenate([theta[:, ~is_constant], components], axis=1)),
              np.where(usable, s2, 0.0), np.where(usable, np.asarray(model.ivar_scale, np.float64), 0.0))
    if solver == "auto":
        n_term = arrays[1].shape[1]
        solver = "sums" if n_term * (n_term + 1) // 2 * 4 * model.n_pix <= LARGEST_TABLE else "pixels"
    return Fitter(
        model=model, solver=solver, constant=arrays[0], theta=arrays[1], s2=arrays[2], ivar_scale=arrays[3],
        starts=np.concatenate([np.zeros((2, len(names))), extra]), linear=linear, free=free,
        training_low=everything.min(axis=0), training_high=everything.max(axis=0), margin=float(margin),
        label=label, power=power, prior_mean=prior_mean, prior_ivar=prior_ivar, max_iter=int(max_iter),
        scaled_covariance=bool(scaled_covariance), clip=float(clip),
        tiles=_tiles(*(a if solver == "sums" else a[:0] for a in arrays)))


def _tiles(constant, theta, s2, ivar_scale):
    """What kernels/sums.py needs besides: float32 copies, and tiles of theta and of its products."""
    theta_tiles = sums.tiled(theta)
    theta_rows = np.ascontiguousarray(theta_tiles.transpose(0, 2, 1))
    return (constant.astype(np.float32), sums.padded(theta_tiles), s2.astype(np.float32),
            ivar_scale.astype(np.float32), sums.pair_rows(theta_rows), theta_rows)


def fit(model, flux, ivar, *, first_row=0, fixed_values=None, spectrum_status=None, **options):
    """`prepare(model, **options).fit(flux, ivar)`: structured rows of result_dtype(model.label_names)."""
    return prepare(model, **options).fit(flux, ivar, first_row, fixed_values, spectrum_status)


def check_grid(wavelength, medium, model, where="the spectra"):
    """Raise DataError unless spectra on `wavelength` (n_pix,) Angstrom, in `medium`, are on the model's grid.

    Wavelengths may differ by a hundredth of a pixel. The message has both grids' start, step and number of
    pixels.
    """
    ours = np.asarray(model.wavelength, dtype=np.float64)
    same = len(wavelength) == len(ours) and medium == model.medium
    if same and len(ours) > 1:
        step = np.abs(np.gradient(ours)).min()
        same = bool((np.abs(wavelength - ours) <= 0.01 * step).all())
    if not same:
        raise DataError(f"{where}: another grid than the model's: {_describe(wavelength, medium)}; "
                        f"the model has {_describe(ours, model.medium)}")


def _describe(wavelength, medium):
    if len(wavelength) < 2:
        return f"{len(wavelength)} pixels"
    return (f"{len(wavelength)} pixels from {wavelength[0]:.4f} to {wavelength[-1]:.4f} Angstrom in {medium}, "
            f"first step {wavelength[1] - wavelength[0]:.6g}")


def _as_bytes(array):
    """(n_star, n_pix) float32 as (n_star, 4 n_pix) uint8, without a copy where the rows are contiguous."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), 4 * array.shape[1])
