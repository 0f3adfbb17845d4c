"""Survey spectra onto the common grid: masks, resampling, normalisation, measured S/N (paper section 3.1).

The order is: survey masks and bad values on the star's own pixels; resampling (a masked pixel takes with it
the output pixels that it touches); normalisation on the common grid where the survey has none; last masks;
S/N. Nothing depends on which other stars are in a batch.
"""
from dataclasses import dataclass

import numpy as np

from cannonkit import bitmasks, errors
from cannonkit.kernels import resample as kernel
from cannonkit.kernels import to_grid
from cannonkit.stages import normalise as continuum_stage
from cannonkit.stages import wavelength as media

STATUS = bitmasks.SPECTRUM_STATUS
LIGHT = 299792.458            # km/s
BAD_VALUES = 0.01             # fraction of invalid pixels from which the status says so
ALIGNED = 1e-4                # pixels: a grid this close to the common one is taken as the same


@dataclass(frozen=True)
class CommonGrid:
    """Pixels of the common grid. wavelength, low, high (n_pix,) float64 Angstrom (centre and edges) in
    `medium`; segment (n_pix,) int16, -1 where no detector is; pieces (n_piece, 2) int64 first and stop pixel
    of each stretch."""

    wavelength: np.ndarray
    low: np.ndarray
    high: np.ndarray
    segment: np.ndarray
    pieces: np.ndarray
    medium: str


def common_grid(grid):
    """The CommonGrid of a recipe_spectra.Grid. Raises DataError where wavelengths do not increase."""
    wavelength, low, high, segment, pieces, number, at = [], [], [], [], [], 0, 0
    for s in grid.stretches:
        i = np.arange(s.n_pix)
        parts = [s.start + s.step * (i + shift) for shift in (0.0, -0.5, 0.5)]
        if grid.scale == "log10":
            parts = [10.0 ** p for p in parts]
        own = np.full(s.n_pix, -1, np.int16)
        for first, stop in s.segments or ((0, s.n_pix),):
            own[first:stop] = number
            number += 1
        wavelength.append(parts[0])
        low.append(parts[1])
        high.append(parts[2])
        segment.append(own)
        pieces.append((at, at + s.n_pix))
        at += s.n_pix
    grid = CommonGrid(np.concatenate(wavelength), np.concatenate(low), np.concatenate(high),
                      np.concatenate(segment), np.array(pieces, np.int64), grid.medium)
    if not (np.isfinite(grid.wavelength).all() and grid.low[0] > 0 and np.all(np.diff(grid.wavelength) > 0)):
        raise errors.DataError("the common grid's wavelengths are not increasing positive numbers")
    return grid


@dataclass(frozen=True)
class Plan:
    """All that is the same for every star; made once by `prepare`."""

    spectra: object                     # recipe_spectra.Spectra
    grid: CommonGrid
    continuum: continuum_stage.Continuum
    dead: np.ndarray                    # (n_pix,) bool: never used
    observed: np.ndarray                # (n_window, 2) windows in the observed frame
    source: np.ndarray                  # (n_piece,) input of each stretch
    error_kind: int
    n_input: int


def prepare(spectra, continuum=None):
    """A Plan from a recipe's Spectra and its continuum list [(medium, wavelengths)] or None. Raises
    DataError."""
    grid = common_grid(spectra.grid)
    dead = grid.segment < 0
    observed = []
    for w in spectra.masks.windows:
        if w.frame == "observed":
            observed.append((w.low, w.high))
        else:
            dead |= (grid.high > w.low) & (grid.low < w.high)
    n_piece = len(grid.pieces)
    source = np.arange(n_piece) if spectra.cameras else np.zeros(n_piece, np.int64)
    kind = {"galah_dr3": "relative", "galah_dr4": "relative"}.get(spectra.layout, "sigma")
    if spectra.generic is not None:
        kind = "relative" if spectra.generic.error is None else spectra.generic.error_kind
    return Plan(spectra, grid, continuum_stage.prepare(spectra.normalise, grid.wavelength, grid.segment,
                                                       grid.medium, continuum),
                dead, np.array(observed, np.float64).reshape(-1, 2), source.astype(np.int64),
                kernel.ERROR_KINDS[kind], len(spectra.cameras) or 1)


class Workspace:
    """Arrays that are used again from block to block, so that their memory is not given back and asked for each
    time (four fifths of the time of gathering an apStar spectrum). One per thread."""

    def __init__(self):
        self._held = {}

    def empty(self, name, shape, dtype=np.float64):
        """An array of this shape, its values undefined; what was asked for under `name` before is overwritten."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or held.size < size:
            held = self._held[name] = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(shape)


@dataclass
class Batch:
    """Stars side by side as the kernels want them; made by `gather`.

    flux, error (n_star, n_input, n_max) float64; bits the same shape int64 or (0, 0, 0); n_in, scale, start,
    step (n_star, n_input); listed as flux or (0, 0, 0); factor, doppler (n_star,); status (n_star,) int64.
    """

    flux: np.ndarray
    error: np.ndarray
    bits: np.ndarray
    n_in: np.ndarray
    scale: np.ndarray
    start: np.ndarray
    step: np.ndarray
    listed: np.ndarray
    factor: np.ndarray
    doppler: np.ndarray
    status: np.ndarray


def gather(plan, stars, workspace=None):
    """A Batch from stars: objects with inputs (a list of n_input, each None or with flux, error, bits,
    scale, start, step, listed), status, doppler and velocity, as `readers.Star`.

    A star whose status says unusable, or that lacks an input where the recipe rejects such stars, or whose
    velocity should be taken out and is not known, contributes no pixels. With a Workspace the batch is valid
    until the next one is gathered in it.
    """
    spectra = plan.spectra
    n_star, n_input = len(stars), plan.n_input
    n_max = max((i.flux.size for s in stars for i in s.inputs if i is not None), default=1)
    convert = spectra.medium != plan.grid.medium
    any_bits = spectra.masks.bad_bits != 0
    any_listed = convert or any(i is not None and i.scale == "listed" for s in stars for i in s.inputs)
    shape = (n_star, n_input, n_max)
    none = (0, 0, 0)
    work = workspace or Workspace()
    bits = work.empty("bits", shape if any_bits else none, np.int64)
    batch = Batch(work.empty("flux", shape), work.empty("error", shape), bits,
                  np.zeros((n_star, n_input), np.int64), np.zeros((n_star, n_input), np.int64),
                  np.zeros((n_star, n_input)), np.ones((n_star, n_input)),
                  np.zeros(shape if any_listed else none), np.ones(n_star), np.full(n_star, np.nan),
                  np.zeros(n_star, np.int64))
    take_out = bool(spectra.velocity.header or spectra.velocity.column)
    for m, star in enumerate(stars):
        status, doppler = star.status, star.doppler
        if take_out:
            if np.isfinite(star.velocity) and abs(star.velocity) < 0.1 * LIGHT:
                batch.factor[m] = 1.0 / (1.0 + star.velocity / LIGHT)
                doppler = (doppler if np.isfinite(doppler) else 1.0) / batch.factor[m]
            elif not status & bitmasks.SPECTRUM_UNUSABLE:
                status |= STATUS.NO_VELOCITY
        batch.status[m], batch.doppler[m] = status, doppler
        lacking = any(i is None for i in star.inputs)
        if status & bitmasks.SPECTRUM_UNUSABLE or lacking and spectra.missing_segment == "reject":
            continue
        for q, spectrum in enumerate(star.inputs):
            if spectrum is not None:
                _put(batch, m, q, spectrum, convert, spectra.medium, plan.grid.medium)
    return batch


def _put(batch, m, q, spectrum, convert, medium, to):
    n = spectrum.flux.size
    batch.flux[m, q, :n] = spectrum.flux
    batch.error[m, q, :n] = spectrum.error
    if batch.bits.shape[0]:
        batch.bits[m, q, :n] = 0 if spectrum.bits is None else spectrum.bits
    batch.n_in[m, q] = n
    batch.start[m, q], batch.step[m, q] = spectrum.start, spectrum.step
    batch.scale[m, q] = kernel.SCALES["listed" if convert else spectrum.scale]
    if spectrum.scale == "listed":
        centres = spectrum.listed
    elif convert:
        centres = spectrum.start + spectrum.step * np.arange(n)
        centres = 10.0 ** centres if spectrum.scale == "log10" else centres
    else:
        return
    batch.listed[m, q, :n] = media.convert(centres, medium, to) if convert else centres


def alignment(plan, batch):
    """(n_star, n_piece) int64: first input pixel of each stretch where the grids are the same, else
    NOT_ALIGNED."""
    stretches = plan.spectra.grid.stretches
    scale = kernel.SCALES[plan.spectra.grid.scale]
    out = np.full((batch.n_in.shape[0], len(stretches)), kernel.NOT_ALIGNED, np.int64)
    for g, s in enumerate(stretches):
        q = plan.source[g]
        start, step = batch.start[:, q], batch.step[:, q]
        shift = (s.start - start) / s.step
        same = (batch.scale[:, q] == scale) & (batch.factor == 1.0) & (batch.n_in[:, q] > 0) \
            & (np.abs(step - s.step) * (s.n_pix + np.abs(shift)) < ALIGNED * s.step) \
            & (np.abs(shift - np.rint(shift)) < ALIGNED)
        out[same, g] = np.rint(shift[same]).astype(np.int64)
    return out


@dataclass
class Resampled:
    """flux, ivar (n_star, n_pix) float32 (flux 1 where ivar is 0); snr (n_star,) float64, NaN without a good
    pixel; n_bad (n_star,) masked pixels that are not so for all stars; status (n_star,) int64."""

    flux: np.ndarray
    ivar: np.ndarray
    snr: np.ndarray
    n_bad: np.ndarray
    status: np.ndarray


def resample(plan, batch, store=None):
    """Clean, resample, normalise and measure a Batch; its flux array is overwritten where it is no number.

    store: two (n_star, n_pix) float32 arrays for the result's flux and ivar (None: new ones).
    """
    masks, done = plan.spectra.masks, plan.spectra.normalise.method == "none"
    grid, continuum = plan.grid, plan.continuum
    n_star, n_pix = batch.n_in.shape[0], grid.wavelength.size
    never = np.inf
    spike = never if masks.spike is None else float(masks.spike)
    if store is None:
        store = np.empty((n_star, n_pix), np.float32), np.empty((n_star, n_pix), np.float32)
    out = Resampled(*store, np.empty(n_star), np.empty(n_star, np.int64), batch.status.copy())
    n_good, invalid, failed = (np.empty(n_star, np.int64) for _ in range(3))
    to_grid.to_grid(batch.flux, batch.error, batch.bits, batch.n_in, plan.error_kind, masks.bad_bits,
                    spike if done else never, masks.spike_sigma, masks.error_below,
                    batch.scale, batch.start, batch.step, batch.factor, batch.listed, alignment(plan, batch),
                    kernel.METHODS[plan.spectra.method],
                    grid.wavelength, grid.low, grid.high, grid.pieces, plan.source,
                    *continuum.for_kernel(),
                    plan.dead, plan.observed, batch.doppler, never if done else spike, masks.error_above,
                    out.flux, out.ivar, out.snr, out.n_bad, n_good, invalid, failed)
    out.status[failed > 0] |= STATUS.NORMALISATION_FAILED
    out.status[invalid > BAD_VALUES * np.maximum(batch.n_in.sum(axis=1), 1)] |= STATUS.BAD_VALUES
    few = (n_good < max(1, plan.spectra.least_pixels)) & (batch.n_in.sum(axis=1) > 0)
    out.status[few] |= STATUS.TOO_FEW_PIXELS
    return out


def correlation(plan, scale, start, step, n):
    """(n_pix,) noise correlation of each pixel of the common grid with the next one, for an input of n
    pixels with centres start + step * i (scale linear or log10) and independent noise; NaN where either is
    not covered."""
    out = np.empty(plan.grid.wavelength.size)
    kernel.neighbour_correlation(kernel.SCALES[scale], float(start), float(step), int(n),
                                 kernel.METHODS[plan.spectra.method],
                                 plan.grid.wavelength, plan.grid.low, plan.grid.high, out)
    return out
