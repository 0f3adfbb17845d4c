"""Spectra of the mock as cc-resample would give them, without files: truth rows -> flux and ivar on the common grid.

The same noise, masks and junk as in the survey's files (stages/mock_spectra.py), put through cc-resample's own
stage: for the same truth rows, what the files and cc-resample give, but for the files' float32 and the error of
kernels/mock_stream.py.
"""

import numpy as np

from cannonkit import bitmasks, schema
from cannonkit.kernels import mock as kernel
from cannonkit.kernels import resample as resample_kernel
from cannonkit.stages import mock_spectra, mock_stars, resample

STATUS = bitmasks.SPECTRUM_STATUS
COPIED = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "v_rotation", "v_macro", "c_fe", "n_fe", "x_fe",
          "radial_velocity", "h_mag", "emission", "velocity_difference")


def stars_of(truth):
    """STAR rows that the spectra of truth rows need: one for each, then companions."""
    stars = np.zeros(len(truth), mock_stars.STAR)
    for name in COPIED:
        stars[name] = truth[name]
    stars["flux_ratio"] = truth["companion_flux"]
    pairs = np.flatnonzero(truth["companion_flux"] > 0.0)
    stars["companion"] = -1
    stars["companion"][pairs] = len(truth) + np.arange(len(pairs))
    others = stars[pairs].copy()
    others["companion"] = -1
    for name in ("teff", "logg", "vmicro"):
        others[name] = truth[f"companion_{name}"][pairs]
    return np.concatenate([stars, others])


class Stream:
    """Makes spectra of one survey; `fill` may run in several threads.

    survey      'apogee' or 'galah'
    plan        resample.Plan of the survey's recipe
    settings    config.Mock
    keep_clear  as of mock_spectra.Synthesis
    """

    def __init__(self, survey, plan, settings, keep_clear):
        self.survey, self.plan, self.settings = survey, plan, settings
        regions = (0,) if survey == "apogee" else (1, 2, 3, 4)
        self.synthesis = mock_spectra.Synthesis(keep_clear, regions, quick=True)

    def fill(self, truth, rows):
        """Fill snr, n_bad, status, flux, ivar of `rows` (of a spectra table) for truth rows, as many."""
        truth = schema.native(truth)
        stars = stars_of(truth)
        obs = mock_spectra.Observation(*(np.ascontiguousarray(a) for a in (
            np.arange(len(truth)), truth["number"], truth["snr"], truth["lsf"], truth["velocity_left"])))
        batch = (self._apogee if self.survey == "apogee" else self._galah)(truth, stars, obs)
        result = resample.resample(self.plan, batch)
        for name in ("snr", "n_bad", "status", "flux", "ivar"):
            rows[name] = getattr(result, name)

    def _apogee(self, truth, stars, obs):
        visits = np.ascontiguousarray(truth["visits"]).astype(np.int64)
        planes, *_ = mock_spectra.apogee_block(self.synthesis, stars, obs, visits, self.settings, whole=False)
        n = len(truth)
        one = np.ones((n, 1))
        return resample.Batch(
            planes["flux"], planes["error"], planes["mask"], np.full((n, 1), mock_spectra.APOGEE_PIXELS),
            np.full((n, 1), resample_kernel.SCALES["log10"]), 4.179 * one, 6e-6 * one, np.zeros((0, 0, 0)), np.ones(n),
            np.full(n, np.nan), np.zeros(n, np.int64))

    def _galah(self, truth, stars, obs):
        grids = mock_spectra.galah_grids(obs, self.settings)
        cameras = mock_spectra.galah_block(self.synthesis, stars, obs, grids, self.settings, whole=False)
        n, longest = len(truth), int(grids[2].max())
        flux, error = np.zeros((n, 4, longest)), np.zeros((n, 4, longest))
        start, step = np.zeros((n, 4)), np.ones((n, 4))
        for c, camera in enumerate(cameras):
            k = camera["normalised"].shape[1]
            flux[:, c, :k], error[:, c, :k] = camera["normalised"], camera["sigma"].astype(np.float32)
            start[:, c], step[:, c] = camera["start"], camera["step"]
        n_in = np.array(grids[2])
        status = np.zeros(n, np.int64)
        gone = np.arange(4) == truth["missing_camera"][:, None].astype(int) - 1
        status[gone.any(axis=1)] |= STATUS.MISSING_SEGMENT
        none = truth["not_normalised"] != 0
        status[none] |= STATUS.NOT_NORMALISED
        n_in[gone | none[:, None]] = 0
        if self.plan.spectra.missing_segment == "reject":
            n_in[(n_in == 0).any(axis=1)] = 0
        doppler = 1.0 / (1.0 - np.asarray(truth["radial_velocity"], float) / kernel.LIGHT)
        return resample.Batch(flux, error, np.zeros((0, 0, 0), np.int64), n_in,
                              np.full((n, 4), resample_kernel.SCALES["linear"]), start, step, np.zeros((0, 0, 0)),
                              np.ones(n), doppler, status)
