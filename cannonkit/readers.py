"""Survey spectra: files -> arrays, one star at a time. Thousands of small files, so few system calls a file.

Files are opened by descriptor, never by CFITSIO (its names are programs; it opens ten times slower), and only
the bytes of the HDUs that are needed are read. Nothing here stops a run: what is wrong with a star is a bit
of bitmasks.SPECTRUM_STATUS and one line of text; only the machine's own troubles (too many open files) are
raised.

Layouts (formats of the surveys' data models, checked on real files where there are any):

apstar      HDU 1 flux, 2 sigma, 3 APOGEE_PIXMASK; rows 0 combined, 1 combined with other weights (of no use;
            all zero for one visit), 2.. visits; one visit: 1 row, 1-D or 2-D, or 2 rows. Missing pixels are
            0 or NaN, bad ones have errors up to 1e13. Not normalised.
aspcapstar  HDU 1 flux, 2 sigma, both 1-D on the same grid; normalised.
galah_dr3   a file a camera; HDU 4 normalised flux, at rest, on a grid of its own; HDU 1 sigma / flux. HDUs
            by number: some names are blank. Observed / rest wavelength = CRVAL1[0] / CRVAL1[4].
galah_dr4   a file a camera; HDU 1 normalised flux (observed frame), HDU 2 sigma / flux, velocity in RVCOM.
generic     as the recipe says: image or table, one spectrum a file or a row each.
"""
import errno
import os
import re
import stat
import threading
import zlib
from dataclasses import dataclass, field

import numpy as np

from cannonkit import errors, fits
from cannonkit.bitmasks import SPECTRUM_STATUS as STATUS

LIGHT = 299792.458                  # km/s
WHOLE = 200_000                     # files up to this size are read at once: a GALAH camera
WINDOW = 65_536                     # bytes of a look into a larger one: an apStar header and a row of its flux
MAX_PIXELS = 1 << 20                # of one spectrum
UNPACKED = 1 << 28                  # bytes of a gzip file, unpacked
UNITS = {"": 1.0, "angstrom": 1.0, "angstroms": 1.0, "a": 1.0, "aa": 1.0, "0.1 nm": 1.0, "0.1nm": 1.0, "nm": 10.0,
         "nanometer": 10.0, "nanometers": 10.0, "um": 1e4, "micron": 1e4, "microns": 1e4, "m": 1e10}   # in Angstrom
_END = b"END".ljust(80)
_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
NAMES = {
    "apstar": "APOGEE apStar", "aspcapstar": "APOGEE aspcapStar", "apvisit": "APOGEE apVisit",
    "galah_dr3": "GALAH DR3", "galah_dr4": "GALAH reduction 6.0 (DR4)",
    "galah_dr4_fit": "a fit table of GALAH DR4", "generic": "the generic layout of the recipe",
}


class Trouble(Exception):
    """What is wrong with a star's file: a status bit and a line for the user."""

    def __init__(self, bit, message):
        super().__init__(message)
        self.bit, self.message = STATUS.mask(bit), message


@dataclass(slots=True)
class Input:
    """One spectrum of one camera (or of all detectors), as the file has it; native byte order, wavelengths
    increasing.

    flux, error (n,) float; bits (n,) integer survey mask or None; centre of pixel i = start + step * i (scale
    linear or log10), or listed[i] (scale listed), Angstrom in the survey's medium.
    """

    flux: np.ndarray
    error: np.ndarray
    scale: str
    start: float = 0.0
    step: float = 0.0
    listed: np.ndarray | None = None
    bits: np.ndarray | None = None


@dataclass(slots=True)
class Star:
    """One spectrum of a star: an Input or None per camera, status word, messages, and what else its file
    says.

    visit 0 = combined; snr of a visit (NaN: not known); doppler = observed / rest wavelength of the Input's
    pixels (NaN: not known); velocity to take out in km/s (NaN: not known).
    """

    inputs: list
    status: int = 0
    messages: list = field(default_factory=list)
    visit: int = 0
    snr: float = np.nan
    doppler: float = np.nan
    velocity: float = np.nan


# --- one FITS file ------------------------------------------------------------------------------


class _Hdu:
    """Header bytes of one HDU and what they say of its data; values are looked up when asked for, once.

    Headers of one block are the same in most files of a survey: `_parsed` keeps them, so they are shared
    between files and threads and never changed.
    """

    __slots__ = ("cards", "kind", "bitpix", "axes", "data_size", "_fields")

    def __init__(self, cards, index):
        self.cards, self._fields = cards, {}
        if index == 0:
            self.kind = "IMAGE"
        else:
            self.kind = self.text(b"XTENSION")
        self.bitpix = self.integer(b"BITPIX")
        n_axis = self.integer(b"NAXIS")
        if self.bitpix not in _TYPES or not 0 <= n_axis <= 9:
            raise ValueError(f"BITPIX {self.bitpix}, NAXIS {n_axis}")
        self.axes = tuple(self.integer(b"NAXIS%d" % i) for i in range(1, n_axis + 1))
        count = 1 if n_axis else 0
        for n in self.axes:
            count *= n
        if self.kind != "IMAGE":
            count += self.integer(b"PCOUNT", 0)
        if count < 0 or min(self.axes, default=0) < 0:
            raise ValueError(f"NAXISn {self.axes}")
        self.data_size = count * (abs(self.bitpix) // 8)

    def field(self, key):
        """Value field of the first card with this keyword, or None."""
        try:
            return self._fields[key]
        except KeyError:
            pass
        pattern = key.ljust(8) + b"="
        at = self.cards.find(pattern)
        while at >= 0 and at % 80:
            at = self.cards.find(pattern, at + 1)
        found = self._fields[key] = None if at < 0 else self.cards[at + 10:at + 80]
        return found

    def integer(self, key, default=None):
        value = self.field(key)
        if value is None:
            if default is None:
                raise ValueError(f"no {key.decode()}")
            return default
        return int(value.split(b"/")[0])

    def number(self, key, default=np.nan):
        """A float; `default` where there is none or it is no number."""
        value = self.field(key)
        if value is None:
            return default
        try:
            return float(value.split(b"/")[0].replace(b"D", b"E"))
        except ValueError:
            return default

    def text(self, key):
        """A string without blanks around it, or the bare value; '' where there is none."""
        value = self.field(key)
        if value is None:
            return ""
        value = value.decode("latin-1").strip()
        if value.startswith("'"):
            return value[1:].split("'")[0].strip()
        return value.split("/")[0].strip()


_parsed = {}            # (cards, whether they are a primary header's) -> _Hdu


def _hdu(cards, index):
    """The _Hdu of a header; ValueError says what is wrong with it."""
    key = cards, index == 0
    hdu = _parsed.get(key)
    if hdu is None:
        hdu = _Hdu(cards, index)
        if len(cards) < fits.BLOCK:
            if len(_parsed) > 500:
                _parsed.clear()
            _parsed[key] = hdu
    return hdu


class File:
    """A regular file opened by its plain name, its HDUs found one after another as they are asked for.

    Raises Trouble: MISSING_FILE, BROKEN_FILE (cut, no FITS file, not readable).
    """

    def __init__(self, path, name):
        self.name, self._hdus, self._starts, self._next = name, [], [], 0
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise errors.TryAgainError(f"{name}: {error.strerror}") from None
            missing = number in (errno.ENOENT, errno.ENOTDIR)
            raise Trouble("MISSING_FILE" if missing else "BROKEN_FILE",
                          f"{name}: {getattr(error, 'strerror', None) or error}") from None
        info = os.fstat(self.fd)
        self.size = info.st_size
        self._windows = []                          # (offset, bytes) in hand
        if not stat.S_ISREG(info.st_mode):
            self.close()
            raise Trouble("BROKEN_FILE", f"{name}: is no regular file")
        if self.size == 0:
            self.close()
            raise Trouble("BROKEN_FILE", f"{name}: the file is empty")

    def _at(self, offset, n):
        """(bytes, place): n bytes of the file from `offset`, fewer only where the file is shorter."""
        for begin, data in self._windows:
            if begin <= offset and offset + n <= begin + len(data):
                return data, offset - begin
        begin, want = (0, self.size) if self.size <= WHOLE else (offset, max(n, WINDOW))
        data = self._pread(begin, want)
        self._windows.append((begin, data))
        return data, offset - begin

    def _pread(self, offset, n):
        try:
            parts, done = [], 0
            while done < n:
                part = os.pread(self.fd, n - done, offset + done)
                if not part:
                    break
                parts.append(part)
                done += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise Trouble("BROKEN_FILE", f"{self.name}: read failed: {error.strerror}") from None

    def _unpack(self):
        """The bytes of a gzip file, unpacked and kept; the File then is what was packed."""
        unpacker = zlib.decompressobj(31)
        try:
            data = unpacker.decompress(self._pread(0, self.size), UNPACKED)
        except zlib.error as error:
            raise self.broken(f"gzip data are damaged ({error})") from None
        if not unpacker.eof:
            raise self.broken(f"gzip data are cut, or more than {UNPACKED} bytes")
        self._windows, self.size = [(0, data)], len(data)
        return data

    def broken(self, message):
        return Trouble("BROKEN_FILE", f"{self.name}: {message}")

    def _header(self, offset):
        """Cards of the header at `offset`, without END, and the number of header bytes."""
        want, cards = fits.BLOCK, None
        while want <= fits.MAX_HEADER_BLOCKS * fits.BLOCK:
            data, at = self._at(offset, min(want, self.size - offset))
            if offset == 0 and data.startswith(b"\x1f\x8b"):
                data, at = self._unpack(), 0
            end = data.find(_END, at)
            while end >= 0 and (end - at) % 80:
                end = data.find(_END, end + 1)
            if end >= 0:
                cards = data[at:end]
                break
            if offset + len(data) - at >= self.size:
                break
            want = max(WINDOW, 4 * want)
        if cards is None:
            raise self.broken(f"header of HDU {len(self._hdus)} has no END card: cut or damaged")
        return cards, (len(cards) + 80 + fits.BLOCK - 1) // fits.BLOCK * fits.BLOCK

    def _walk(self):
        """Find the next HDU; False at the end of the file."""
        index, offset = len(self._hdus), self._next
        if offset >= self.size:
            return False
        cards, length = self._header(offset)
        if not cards.startswith(b"SIMPLE  =" if index == 0 else b"XTENSION="):
            raise self.broken(f"HDU {index} does not start with XTENSION: damaged" if index
                              else "not a FITS file")
        try:
            hdu = _hdu(cards, index)
        except ValueError as error:
            raise self.broken(f"header of HDU {index}: {error}") from None
        start = offset + length
        if start + hdu.data_size > self.size:
            raise self.broken(f"HDU {index} needs {hdu.data_size} bytes of data, "
                              f"{max(0, self.size - start)} are there: cut or damaged")
        self._hdus.append(hdu)
        self._starts.append(start)
        self._next = start + (hdu.data_size + fits.BLOCK - 1) // fits.BLOCK * fits.BLOCK
        return True

    def hdu(self, index):
        """HDU number `index`, or None where the file has fewer."""
        while len(self._hdus) <= index:
            if not self._walk():
                return None
        return self._hdus[index]

    def count(self):
        """Number of HDUs (walks to the end)."""
        while self._walk():
            pass
        return len(self._hdus)

    def pixels(self, index, row=0):
        """Row `row` of image HDU `index` (a 1-D image is its row 0): big-endian, scaled where the header says so."""
        hdu = self.hdu(index)
        n = hdu.axes[0]
        kind = np.dtype(_TYPES[hdu.bitpix])
        offset, size = self._starts[index] + row * n * kind.itemsize, n * kind.itemsize
        data, at = self._at(offset, size)
        if len(data) < at + size:
            raise self.broken("the file became shorter while it was read")
        values = np.frombuffer(data, kind, n, at)
        if hdu.bitpix > 0 or hdu.field(b"BSCALE") is not None:
            scale, zero = hdu.number(b"BSCALE", 1.0), hdu.number(b"BZERO", 0.0)
            if scale != 1.0 or zero != 0.0:
                values = values * scale + zero
        return values

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


# --- which survey's file is it -----------------------------------------------------------------------


def layout_of(file):
    """Layout of an open File: a key of NAMES, or '' where it is none that is known. Looks at structure, not
    names alone."""
    first, second, third = file.hdu(0), file.hdu(1), file.hdu(2)
    if first is None or second is None:
        return ""
    names = [h.text(b"EXTNAME").casefold() for h in (second, third) if h is not None]
    if second.kind == "BINTABLE":
        columns = {second.text(b"TTYPE%d" % i) for i in range(1, 6)}
        return "galah_dr4_fit" if {"wave", "sob", "smod"} <= columns else ""
    if len(first.axes) == 1 and first.bitpix < 0 and len(second.axes) == 1:
        if "normalized" in names or "relative_error" in names or file.hdu(5) is not None:
            return "galah_dr4"
        return "galah_dr3" if third is not None else ""
    if first.axes or not second.axes or third is None:
        return ""
    if len(second.axes) == 2 and second.axes[1] == 3 and second.axes[0] in (2048, 4096):
        return "apvisit"
    log = "LOG" in (first.text(b"CTYPE1") + second.text(b"CTYPE1")) or first.integer(b"DC-FLAG", 0) == 1
    fourth = file.hdu(3)
    if not log or fourth is None or len(second.axes) > 2:
        return ""
    if fourth.kind == "IMAGE" and fourth.axes and fourth.bitpix > 0:
        return "apstar"
    return "aspcapstar" if len(second.axes) == 1 else ""


def _expect(file, layout):
    found = layout_of(file)
    if found != layout:
        what = NAMES.get(found) or f"no known survey ({file.count()} HDUs)"
        raise Trouble("WRONG_LAYOUT", f"{file.name}: has the layout of {what}, expected {NAMES[layout]}")


def _same_length(file, numbers, n):
    for k in numbers:
        hdu = file.hdu(k)
        if hdu is None or hdu.kind != "IMAGE" or not hdu.axes or hdu.axes[0] != n:
            have = "missing" if hdu is None else f"{hdu.axes[0] if hdu.axes else 0} pixels"
            raise file.broken(f"HDU {k}: {have}, expected {n} pixels as in the flux")
    if not 2 <= n <= MAX_PIXELS:
        raise file.broken(f"{n} pixels in a spectrum (expected 2 to {MAX_PIXELS})")


def _linear(file, hdu, number, fallback=None):
    """(start, step) of an image's pixels from CRVAL1, CDELT1 or CD1_1, and CRPIX1 (1 where absent or 0)."""
    for h in (hdu, fallback):
        if h is None:
            continue
        value, step = h.number(b"CRVAL1"), h.number(b"CDELT1")
        if not np.isfinite(step):
            step = h.number(b"CD1_1")
        pixel = h.number(b"CRPIX1", 1.0) or 1.0
        start = value + step * (1.0 - pixel)
        last = start + step * hdu.axes[0]
        if np.isfinite(last) and start > 0 and step != 0 and last > 0:
            return start, step
    raise file.broken(f"HDU {number}: no usable CRVAL1, CDELT1 and CRPIX1")


# --- the layouts -----------------------------------------------------------------------------------


def _galah_dr3(file, camera, star, want_bits):
    _expect(file, "galah_dr3")
    flux = file.hdu(4)
    if file.hdu(3) is None:
        raise file.broken(f"{file.count()} HDUs, expected 5: cut or damaged")
    if flux is None or not flux.axes:
        raise Trouble("NOT_NORMALISED", f"{file.name}: has no HDU 4 (normalised flux)")
    n = flux.axes[0]
    _same_length(file, (1,), n)
    start, step = _linear(file, flux, 4)
    observed = file.hdu(0).number(b"CRVAL1")
    if 0.99 < observed / start < 1.01:
        star.doppler = observed / start
    return Input(file.pixels(4), file.pixels(1), "linear", start, step)


def _galah_dr4(file, camera, star, want_bits):
    _expect(file, "galah_dr4")
    flux = file.hdu(1)
    _same_length(file, (2,), flux.axes[0])
    start, step = _linear(file, flux, 1)
    star.doppler = 1.0            # the observed frame, until the velocity is taken out
    return Input(file.pixels(1), file.pixels(2), "linear", start, step)


def _apstar_row(file, row, want_bits):
    start, step = _linear(file, file.hdu(1), 1, file.hdu(0))
    bits = file.pixels(3, row) if want_bits else None
    return Input(file.pixels(1, row), file.pixels(2, row), "log10", start, step, None, bits)


def _check_apstar(file):
    _expect(file, "apstar")
    flux = file.hdu(1)
    _same_length(file, (2, 3), flux.axes[0])
    if len(flux.axes) > 2 or any(file.hdu(k).axes != flux.axes for k in (2, 3)):
        raise file.broken(f"flux has the shape {flux.axes[::-1]}, error {file.hdu(2).axes[::-1]}, "
                          f"mask {file.hdu(3).axes[::-1]}")
    rows = flux.axes[1] if len(flux.axes) == 2 else 1
    if rows < 1:
        raise file.broken("has no spectrum")
    return rows


def _aspcapstar(file, want_bits):
    _expect(file, "aspcapstar")
    flux = file.hdu(1)
    _same_length(file, (2,), flux.axes[0])
    start, step = _linear(file, flux, 1, file.hdu(0))
    return Input(file.pixels(1), file.pixels(2), "log10", start, step)


class _Shared:
    """A file of the generic layout, its structure checked; stays open where many stars are in it."""

    def __init__(self, path, name, generic):
        self.name = name
        opened = File(path, name)               # for its checks of what the path is
        self.fd, opened.fd = opened.fd, None
        try:
            self.hdus = fits.walk(self.fd, name)
            parts = {what: getattr(generic, what) for what in ("flux", "error", "mask", "wavelength")}
            self.parts = {what: self._hdu(part) for what, part in parts.items() if part is not None}
            self.header = self._named(generic.header).header if generic.start is None else None
        except errors.CannonkitError as error:
            self.close()
            raise Trouble("BROKEN_FILE", str(error)) from None
        except Trouble:
            self.close()
            raise

    def _named(self, wanted):
        for h in self.hdus:
            if wanted == h.index or str(wanted).casefold() == h.name.casefold() != "":
                return h
        names = ", ".join(h.name or str(h.index) for h in self.hdus)
        raise Trouble("WRONG_LAYOUT", f"{self.name}: has no HDU {wanted!r} (has {names}), "
                                      f"expected {NAMES['generic']}")

    def _hdu(self, part):
        h = self._named(part.hdu)
        if (h.kind == "image") == bool(part.column):
            found, wanted = "an image", f"a table with column {part.column!r}"
            if not part.column:
                found, wanted = "a table", "an image"
            raise Trouble("WRONG_LAYOUT", f"{h.place}: is {found}, expected {wanted}")
        if part.column and part.column not in h.table.columns:
            raise Trouble("WRONG_LAYOUT", f"{h.place}: no column {part.column!r}"
                                          f"{errors.did_you_mean(part.column, h.table.columns)}")
        return h, part.column

    def values(self, what, row):
        """1-D pixels of a part; `row` (None = the only one) chooses in a 2-D image or among vector rows."""
        hdu, column = self.parts[what]
        if column:
            vector = hdu.table.columns[column].shape != ()
            if vector and row is not None:
                if row >= hdu.n_row:
                    raise Trouble("BROKEN_FILE", f"{hdu.place}: has no row {row} ({hdu.n_row} rows)")
                return fits.read_hdu_rows(self.fd, hdu, row, row + 1, [column])[column][0].ravel()
            if vector and hdu.n_row != 1:
                raise Trouble("WRONG_LAYOUT", f"{hdu.place}: {hdu.n_row} spectra in column {column!r}, "
                                              "and the recipe has no `row`")
            if hdu.data_size > 1 << 28:
                raise Trouble("BROKEN_FILE", f"{hdu.place}: {hdu.data_size} bytes for one spectrum")
            return fits.read_hdu_rows(self.fd, hdu, names=[column])[column].ravel()
        if len(hdu.axes) == 1:
            k = 0
        elif len(hdu.axes) == 2 and row is not None:
            k = row
        elif len(hdu.axes) == 2 and hdu.axes[1] == 1:
            k = 0
        else:
            hint = "" if row is not None else " (the recipe has no `row`)"
            raise Trouble("WRONG_LAYOUT",
                          f"{hdu.place}: image of shape {hdu.axes[::-1]}, expected one spectrum{hint}")
        if len(hdu.axes) == 2 and k >= hdu.axes[1]:
            raise Trouble("BROKEN_FILE", f"{hdu.place}: has no row {k} ({hdu.axes[1]} rows)")
        n = hdu.axes[0]
        kind = np.dtype(_TYPES[hdu.header["BITPIX"]])
        data = fits.pread_exact(self.fd, n * kind.itemsize, hdu.data_start + k * n * kind.itemsize, hdu.place)
        pixels = data.view(kind)
        scale, zero = hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0)
        return pixels if scale == 1 and zero == 0 else pixels * float(scale) + float(zero)

    def unit(self):
        """Angstrom in the unit of the wavelengths: of their column, or CUNIT1; no unit is Angstrom."""
        if "wavelength" in self.parts:
            hdu, column = self.parts["wavelength"]
            text = hdu.table.columns[column].unit if column else hdu.header.text("BUNIT")
        else:
            text = self.header.text("CUNIT1") if self.header is not None else ""
        found = UNITS.get(re.sub(r"^log(10)?[ (]*|[)]$", "", text.strip().casefold()).strip())
        if found is None:
            raise Trouble("WRONG_LAYOUT", f"{self.name}: wavelengths in {text!r}, expected one of "
                                          f"{', '.join(u for u in UNITS if u)}")
        return found

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _generic(shared, generic, row):
    try:
        flux = shared.values("flux", row).astype(np.float64)
        n = flux.size
        error = np.full(n, generic.relative_error) if generic.error is None else shared.values("error", row)
        parts = {"error": error}
        if generic.mask is not None:
            parts["mask"] = mask = shared.values("mask", row)
        listed = None
        if generic.wavelength is not None:
            parts["wavelength"] = listed = shared.values("wavelength", row).astype(np.float64)
    except errors.DataError as error:
        raise Trouble("BROKEN_FILE", str(error)) from None
    for what, values in parts.items():
        if values.size != n:
            raise Trouble("WRONG_LAYOUT", f"{shared.name}: flux has {n} pixels, {what} {values.size}")
    if not 2 <= n <= MAX_PIXELS:
        raise Trouble("BROKEN_FILE", f"{shared.name}: {n} pixels in a spectrum")
    error = error.astype(np.float64)
    if generic.mask is not None:
        good = mask == generic.mask_good if generic.mask_good is not None else mask == 0
        error[~good] = 0.0
    if listed is not None:
        scale, start, step = "listed", 0.0, 0.0
        if generic.scale == "log10":
            listed = 10.0 ** listed
        listed = listed * shared.unit()
        difference = np.diff(listed)
        one_way = np.all(difference > 0) or np.all(difference < 0)
        if not (np.isfinite(listed).all() and listed.min() > 0 and one_way):
            raise Trouble("BROKEN_FILE", f"{shared.name}: wavelengths are not monotonic positive numbers")
        if difference[0] < 0:
            flux, error, listed = flux[::-1], error[::-1], listed[::-1]
        return Input(flux, error, scale, listed=listed)
    scale, start, step = generic.scale, generic.start, generic.step
    if start is None:
        h = shared.header
        number = {k: h.get(k) for k in ("CRVAL1", "CDELT1", "CD1_1", "CRPIX1", "DC-FLAG")}
        step = number["CDELT1"] if isinstance(number["CDELT1"], int | float) else number["CD1_1"]
        pixel = number["CRPIX1"] if isinstance(number["CRPIX1"], int | float) and number["CRPIX1"] else 1.0
        if not isinstance(step, int | float) or not isinstance(number["CRVAL1"], int | float):
            raise Trouble("WRONG_LAYOUT", f"{shared.name}: no CRVAL1 and CDELT1 in HDU {generic.header!r}")
        start = number["CRVAL1"] + step * (1.0 - pixel)
        if "LOG" in h.text("CTYPE1").upper() or number["DC-FLAG"] == 1:
            scale = "log10"
        unit = shared.unit()
        start, step = (start + np.log10(unit), step) if scale == "log10" else (start * unit, step * unit)
    return Input(flux, error, scale, float(start), float(step))


# --- a star --------------------------------------------------------------------------------------


def inside(root, relative):
    """The path of `relative` under `root`. Raises Trouble (NO_PATH) where it is blank, absolute or climbs
    out.

    Links under the root are followed: they are the user's own."""
    if not relative.strip():
        raise Trouble("NO_PATH", "the catalogue names no file")
    parts = relative.split("/")
    if relative.startswith("/") or ".." in parts or "\0" in relative or not relative.isprintable():
        raise Trouble("NO_PATH", f"{relative!r}: not a path under the root")
    return os.path.join(root, relative)


class Reader:
    """Reads the stars of one survey: `read` per row of the table; safe to call from several threads.

    spectra   recipe_spectra.Spectra; root: directory of all files
    """

    def __init__(self, spectra, root):
        self.spectra, self.root = spectra, os.fspath(root)
        self.want_bits = spectra.masks.bad_bits != 0
        self._shared, self._lock = None, threading.Lock()
        self._one_file = spectra.layout == "generic" and not re.search(r"\{\w+\}", spectra.file)
        self._camera = {"galah_dr3": _galah_dr3, "galah_dr4": _galah_dr4}.get(spectra.layout)

    def close(self):
        if self._shared is not None:
            self._shared.close()

    def paths(self, file):
        """Relative path of each file of a star: its cameras put into {ccd}, or the one file."""
        if not self.spectra.cameras:
            return [file]
        return [file.replace("{ccd}", camera) for camera in self.spectra.cameras]

    def read(self, file, row="", velocity=np.nan, visits="combined"):
        """The spectra of a star: [Star], of which there is always at least one.

        file      the recipe's `file` template filled from the star's columns (still with {ccd})
        row       the generic layout's row, filled likewise
        velocity  km/s, to take out (recipe: velocity.column)
        visits    combined; all: then each visit; only: the visits (the combined one where there is a single
                  visit)
        """
        n_input = len(self.spectra.cameras) or 1
        star = Star([None] * n_input, velocity=velocity)
        stars = [star]
        missing, shown = 0, ""
        for q, relative in enumerate(self.paths(file)):
            try:
                found = self._read_file(relative, q, star, row, visits)
                if found is not None:
                    stars = found
            except Trouble as trouble:
                if trouble.bit == STATUS.MISSING_FILE and n_input > 1:
                    missing += 1
                    shown = shown or trouble.message
                    continue
                star.status |= trouble.bit
                star.messages.append(trouble.message)
        if missing:
            star.status |= STATUS.MISSING_SEGMENT if missing < n_input else STATUS.MISSING_FILE
            star.messages.append(shown)
        return stars

    def _read_file(self, relative, q, star, row, visits):
        path = inside(self.root, relative)
        if self.spectra.layout == "generic":
            star.inputs[q] = self._read_generic(path, relative, row)
            return None
        with File(path, relative) as file:
            self._read_velocity(file, star)
            if self._camera is not None:
                star.inputs[q] = _increasing(self._camera(file, q, star, self.want_bits))
                return None
            if self.spectra.layout == "aspcapstar":
                star.inputs[q] = _aspcapstar(file, self.want_bits)
                return None
            return self._read_apstar(file, star, visits)

    def _read_velocity(self, file, star):
        wanted = self.spectra.velocity
        if not wanted.header or np.isfinite(star.velocity):
            return
        for index in (0, 1):
            h = file.hdu(index)
            if h is None:
                continue
            value = h.number(wanted.header.encode("ascii"))
            trusted = not wanted.good or h.text(wanted.good.encode("ascii")) in ("1", "T", "1.0")
            if np.isfinite(value) and trusted:
                star.velocity = value
                return

    def _read_generic(self, path, relative, row):
        k = None
        if self.spectra.generic.row:
            text = row.strip()
            if not text.isdecimal() or not text.isascii() or len(text) > 15:
                raise Trouble("NO_PATH", f"{relative}: row {row!r} is no number from 0")
            k = int(text)
        if not self._one_file:
            shared = _Shared(path, relative, self.spectra.generic)
            try:
                return _increasing(_generic(shared, self.spectra.generic, k))
            finally:
                shared.close()
        with self._lock:
            if self._shared is None:
                self._shared = _Shared(path, relative, self.spectra.generic)
        return _increasing(_generic(self._shared, self.spectra.generic, k))

    def _read_apstar(self, file, star, visits):
        rows = _check_apstar(file)
        primary = file.hdu(0)
        stars = []
        if visits != "only" or rows <= 2:
            star.inputs[0] = _apstar_row(file, 0, self.want_bits)
            if visits == "only":
                star.visit, star.snr = 1, primary.number(b"SNRVIS1")
            stars.append(star)
        if visits != "combined":
            for k in range(2, rows):
                snr = primary.number(b"SNRVIS%d" % (k - 1))
                stars.append(Star([_apstar_row(file, k, self.want_bits)], visit=k - 1, snr=snr,
                                  velocity=star.velocity))
        return stars

    def count(self, file, visits):
        """Number of spectra that `read` returns for a star, from its header alone."""
        if visits == "combined" or self.spectra.layout != "apstar":
            return 1
        try:
            with File(inside(self.root, file), file) as opened:
                n_visit = max(0, _check_apstar(opened) - 2)
        except Trouble:
            return 1
        return n_visit + 1 if visits == "all" else max(1, n_visit)


def _increasing(spectrum):
    """The same spectrum with wavelengths increasing."""
    if spectrum.listed is None and spectrum.step < 0:
        last = spectrum.flux.size - 1
        bits = None if spectrum.bits is None else spectrum.bits[::-1]
        return Input(spectrum.flux[::-1], spectrum.error[::-1], spectrum.scale,
                     spectrum.start + spectrum.step * last, -spectrum.step, None, bits)
    return spectrum
