"""The surveys' own flag words, and what a clean star is (paper sections 3.6 and 4.1). Arrays in, arrays out.

Apart from stages.flag because nothing here is compiled: cc-merge starts without Numba.
"""
from typing import NamedTuple

import numpy as np

from cannonkit import bitmasks, schema

# Bits of a spectrum's status word that make flag_spectra 1 in a survey whose flag is 0 or 1 (GALAH).
BAD_SPECTRUM = bitmasks.SPECTRUM_STATUS.mask(
    "MISSING_FILE", "BROKEN_FILE", "WRONG_LAYOUT", "MISSING_SEGMENT", "NOT_NORMALISED",
    "NORMALISATION_FAILED", "TOO_FEW_PIXELS", "NO_PATH")


class SurveyFlags(NamedTuple):
    """The survey's words for a chunk of rows; see `survey_flags`."""

    flag_spectra: np.ndarray
    flag_sp_aspcap: np.ndarray
    flag_survey: np.ndarray
    flag_snr: np.ndarray


def survey_flags(rows, found, snr_min, boolean_spectra=False, spectrum_status=None):
    """The four flags that come from the survey's catalogue.

    rows      structured, one per star: flag_spectra, flag_sp, flag_survey, snr
    found     (n_star,) bool: False = the star is not in the catalogue: words null, the other two 1
    snr_min   flag_snr is 1 where not S/N > snr_min
    boolean_spectra, spectrum_status: where the survey's flag_spectra is 0 or 1, a spectrum without its
              cameras, normalised extension or usable pixels (status word) is 1 too
    """
    spectra = np.where(found, rows["flag_spectra"], schema.NULL_ID)
    if boolean_spectra and spectrum_status is not None:
        spectra = np.where(np.asarray(spectrum_status) & BAD_SPECTRUM != 0, 1, spectra)
    return SurveyFlags(
        spectra,
        np.where(found, rows["flag_sp"], schema.NULL_ID),
        np.where(found, rows["flag_survey"], 1).astype(np.int16),
        ~(found & (rows["snr"] > snr_min)),
    )


def has_no_bad_bit(word, mask):
    """(n,) bool: no bit of `mask` (all bits: -1) is set, and the word is not null."""
    word = np.asarray(word)
    return (word & mask == 0) & (word != schema.NULL_ID)


def is_clean(rows, spectra_mask, sp_mask):
    """(n,) bool, the paper's clean star: no flag, and no *bad* bit in the survey's words, which also hold
    warnings. rows: flag_cannon_dist, flag_survey, flag_snr, flag_spectra, flag_sp_aspcap."""
    return (np.all([rows[n] == 0 for n in ("flag_cannon_dist", "flag_survey", "flag_snr")], axis=0)
            & has_no_bad_bit(rows["flag_spectra"], spectra_mask)
            & has_no_bad_bit(rows["flag_sp_aspcap"], sp_mask))


def is_clean_by_zero(rows):
    """(n,) bool: every flag and word is 0; shown beside `is_clean`, since warnings make it too strict."""
    return np.all([rows[n] == 0 for n in ("flag_cannon_dist", "flag_survey", "flag_snr", "flag_spectra",
                                          "flag_sp_aspcap")], axis=0)
