"""The `spectra:` section of a survey's recipe: its files, the common grid, masks and normalisation.

Plain data, used by readers (files -> arrays), stages.resample and stages.normalise. A layout is what a
reader knows; everything that differs between surveys beyond that is a value here.
"""
import re
from dataclasses import dataclass, field

from cannonkit import bitmasks, errors

LAYOUTS = {                     # layout -> medium of its wavelengths ('' = said by the recipe)
    "apstar": "vacuum",         # APOGEE apStar, asStar (DR10 to DR17): combined row and visits
    "aspcapstar": "vacuum",     # APOGEE aspcapStar: pseudo-continuum normalised
    "galah_dr3": "air",         # GALAH DR3: one file a camera, normalised flux at rest in HDU 4
    "galah_dr4": "air",         # GALAH reduction 6.0 (DR4): one file a camera, normalised flux in HDU 1
    "generic": "",              # described by `generic`
}
METHODS = ("flux", "linear", "cubic", "lanczos")
NORMALISATIONS = ("none", "polynomial", "sincos", "percentile", "gaussian")


def _one_of(what, value, known):
    """Raise ValueError (config.load adds file and line) for a value that is not known."""
    if value not in known:
        raise ValueError(f"{what}: {value!r} is not known{errors.did_you_mean(value, known)}")


@dataclass(frozen=True)
class Stretch:
    """`n_pix` pixels of the common grid with centres start + step * i, in Angstrom or log10(Angstrom).

    segments: pixel ranges [first, stop) within the stretch that carry data, each one detector or camera for
    the normalisation; empty = the whole stretch is one segment. Pixels outside are kept, always masked.
    """

    start: float
    step: float
    n_pix: int
    segments: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        if not (self.step > 0 and 1 <= self.n_pix <= 10_000_000):
            raise ValueError("a stretch needs step > 0 and n_pix from 1 to 10,000,000")
        stop = 0
        for segment in self.segments:
            if len(segment) != 2 or not stop <= segment[0] < segment[1] <= self.n_pix:
                raise ValueError(f"segments: {list(segment)} (expected [first, stop], increasing, "
                                 f"within 0..{self.n_pix})")
            stop = segment[1]


@dataclass(frozen=True)
class Grid:
    """The common grid: stretches one after another. scale: linear or log10; medium: air or vacuum."""

    stretches: tuple[Stretch, ...]
    scale: str = "linear"
    medium: str = "air"

    def __post_init__(self):
        _one_of("scale", self.scale, ("linear", "log10"))
        _one_of("medium", self.medium, ("air", "vacuum"))
        if not self.stretches:
            raise ValueError("stretches: none given")
        for first, second in zip(self.stretches, self.stretches[1:], strict=False):
            if second.start <= first.start + first.step * (first.n_pix - 1):
                raise ValueError(f"stretches: {second.start} begins before {first.start} ends")


@dataclass(frozen=True)
class Normalise:
    """How the continuum is divided out, per segment of the grid.

    none         the survey has done it
    polynomial   Chebyshev polynomial of `order` through continuum pixels, weighted by the errors
    sincos       1 and `order` sines and cosines of period `width` through continuum pixels
    percentile   running `percentile` in windows of `width` Angstrom (moves with S/N: measured in the tests)
    gaussian     running mean with Gaussian weights of sigma `width` Angstrom
    pixels       table of continuum pixels (CSV: wavelength,medium) beside the recipe; '' = every pixel
    errors       weight with 1/sigma^2, sigma smoothed so that noise does not choose its own weight; else
                 equal
    least        a segment with fewer good continuum pixels fails; 0 = twice the number of coefficients
    """

    method: str = "none"
    order: int = 2
    width: float = 0.0
    percentile: float = 90.0
    pixels: str = ""
    errors: bool = True
    least: int = 0

    def __post_init__(self):
        _one_of("method", self.method, NORMALISATIONS)
        if not 0 <= self.order <= 20:
            raise ValueError(f"order: {self.order} (expected 0 to 20)")
        if self.method in ("sincos", "percentile", "gaussian") and not self.width > 0:
            raise ValueError(f"method {self.method} needs a `width` in Angstrom")
        if not 0 < self.percentile < 100:
            raise ValueError(f"percentile: {self.percentile} (expected between 0 and 100)")


@dataclass(frozen=True)
class MaskWindow:
    """Wavelengths to mask, Angstrom in the medium of the grid; frame: rest or observed (sky, tellurics)."""

    low: float
    high: float
    frame: str = "rest"
    why: str = ""

    def __post_init__(self):
        _one_of("frame", self.frame, ("rest", "observed"))
        if not self.low < self.high:
            raise ValueError(f"window {self.low} to {self.high}")


@dataclass(frozen=True)
class Masks:
    """Which pixels are not used.

    word, bits    survey mask: a pixel with one of these bits (names in bitmasks.WORDS[word])
    windows       wavelengths
    spike         normalised flux above spike + spike_sigma * its error; None = never
    error_below   error below this fraction of the median error of its camera (0 = never)
    error_above   error of the normalised flux above this
    """

    word: str = ""
    bits: tuple[str, ...] = ()
    windows: tuple[MaskWindow, ...] = ()
    spike: float | None = None
    spike_sigma: float = 3.0
    error_below: float = 0.0
    error_above: float = 10.0

    def __post_init__(self):
        if self.bits:
            _one_of("word", self.word, bitmasks.WORDS)
            for name in self.bits:
                _one_of("bits", name, bitmasks.WORDS[self.word])
        if not self.error_above > 0:
            raise ValueError(f"error_above: {self.error_above} (expected > 0)")

    @property
    def bad_bits(self):
        return bitmasks.WORDS[self.word].mask(*self.bits) if self.bits else 0


@dataclass(frozen=True)
class Velocity:
    """A velocity to take out: wavelengths are divided by 1 + v/c (km/s).

    header  keyword of the first file that has it (and `good`, a keyword that must be true); column: of TABLE
    """

    header: str = ""
    good: str = ""
    column: str = ""


@dataclass(frozen=True)
class Part:
    """A place in a file of the generic layout: an HDU by name or number, and a column of a table."""

    hdu: int | str
    column: str = ""


@dataclass(frozen=True)
class Generic:
    """A layout in data: where flux, error, mask and wavelengths stand.

    An image: one spectrum (1-D), or one in each row (2-D): then `row` says which. A table: one row per pixel
    (columns), or one row per spectrum (vector columns; `row`). See README, "Another survey".

    error_kind        sigma, ivar, variance or relative (sigma / flux)
    relative_error    a nominal sigma / flux where the survey publishes no error
    mask, mask_good   pixels whose mask is not this value are masked; without mask_good those not 0 are
    wavelength        a part with the wavelengths; else start, step (scale linear or log10); else the header
                      of the HDU `header` (CRVAL1, CDELT1 or CD1_1, CRPIX1; log10 where CTYPE1 says LOG or
                      DC-FLAG is 1)
    row               template of the row number, counted from 0, e.g. "{spectrum}"
    """

    flux: Part
    medium: str
    error: Part | None = None
    error_kind: str = "sigma"
    relative_error: float | None = None
    mask: Part | None = None
    mask_good: int | None = None
    wavelength: Part | None = None
    start: float | None = None
    step: float | None = None
    scale: str = "linear"
    header: int | str = 0
    row: str = ""

    def __post_init__(self):
        _one_of("medium", self.medium, ("air", "vacuum"))
        _one_of("error_kind", self.error_kind, ("sigma", "ivar", "variance", "relative"))
        _one_of("scale", self.scale, ("linear", "log10"))
        if (self.error is None) == (self.relative_error is None):
            raise ValueError("one of `error` and `relative_error` is needed")
        if (self.start is None) != (self.step is None):
            raise ValueError("`start` and `step` go together")


@dataclass(frozen=True)
class Spectra:
    """How the survey's spectra are read and put on the common grid.

    file             template of the file's path under --root, over {spectrum}, {id} and {star_id} of TABLE's
                     rows; {ccd} (also inside the text of a column) stands for each of `cameras`
    cameras          one file each, in the order of the grid's stretches; empty = one file
    missing_segment  a star without one of its cameras: `reject` (all pixels masked, as the paper does) or
                     `keep` (the others are used); the status says so either way
    least_pixels     fewer good pixels give the status TOO_FEW_PIXELS
    """

    layout: str
    grid: Grid
    file: str = "{spectrum}"
    cameras: tuple[str, ...] = ()
    method: str = "flux"
    missing_segment: str = "reject"
    normalise: Normalise = field(default_factory=Normalise)
    masks: Masks = field(default_factory=Masks)
    velocity: Velocity = field(default_factory=Velocity)
    least_pixels: int = 0
    generic: Generic | None = None

    def __post_init__(self):
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("method", self.method, METHODS)
        _one_of("missing_segment", self.missing_segment, ("reject", "keep"))
        if (self.layout == "generic") != (self.generic is not None):
            raise ValueError("`generic` describes layout generic, and only that")
        if self.cameras and len(self.cameras) != len(self.grid.stretches):
            raise ValueError(f"{len(self.cameras)} cameras for {len(self.grid.stretches)} stretches of the "
                             "grid")
        row = self.generic.row if self.generic else ""
        for name in re.findall(r"\{(\w*)\}", self.file + row):
            _one_of("a template of spectra names a column", name, ("spectrum", "id", "star_id", "ccd"))
        known = self.layout in ("galah_dr3", "galah_dr4") or self.velocity.header or self.velocity.column
        if any(w.frame == "observed" for w in self.masks.windows) and not known:
            raise ValueError("masks: windows in the observed frame need the star's velocity, "
                             "which this layout does not tell")

    @property
    def medium(self):
        """Medium of the survey's own wavelengths."""
        return self.generic.medium if self.generic else LAYOUTS[self.layout]
