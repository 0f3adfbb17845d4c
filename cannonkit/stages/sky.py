"""Positions on the sky: from degrees, Galactic coordinates or 2MASS names; proper motion; unit vectors."""
import numpy as np

from cannonkit.stages.columns import strip


def designation_position(texts):
    """RA and Dec (degrees, ICRS) from 2MASS designations hhmmssss+ddmmsss, with or without a `2M` prefix.

    texts: bytes (n,). Returns (ra, dec) float64; NaN where a text is none. The position is what the text
    says: truncated to 0.01 s and 0.1 arcsec, as the 2MASS names are.
    """
    letters = strip(np.asarray(texts)).astype("S24").view(np.uint8).reshape(len(texts), 24)
    prefixed = (letters[:, 0] == ord("2")) & (letters[:, 1] == ord("M"))
    letters = np.where(prefixed[:, None], np.roll(letters, -2, axis=1), letters)
    digit = letters.astype(np.int64) - ord("0")
    sign = letters[:, 8]
    places = [k for k in range(16) if k != 8]
    good = ((digit[:, places] >= 0) & (digit[:, places] <= 9)).all(axis=1)
    good &= (sign == ord("+")) | (sign == ord("-"))

    def number(first, count):
        return sum(digit[:, first + k] * 10.0 ** (count - 1 - k) for k in range(count))
    ra = 15.0 * (number(0, 2) + number(2, 2) / 60.0 + number(4, 4) / 360000.0)
    dec = number(9, 2) + number(11, 2) / 60.0 + number(13, 3) / 36000.0
    dec = np.where(sign == ord("-"), -dec, dec)
    good &= (ra < 360.0) & (np.abs(dec) <= 90.0)
    return np.where(good, ra, np.nan), np.where(good, dec, np.nan)


def _galactic_axes():
    """Rotation from ICRS to Galactic axes.

    The Galactic system of 1958 (Blaauw et al. 1960) in FK5 J2000: pole at RA 192.8594812065348 and Dec
    27.12825118085622 degrees, celestial pole at Galactic longitude 122.9319185680026 degrees. FK5 is turned
    against ICRS by -19.9, 9.1 and -22.9 mas (Hilton & Hohenkerk 2004).
    """
    ra, dec, node = np.radians([192.8594812065348, 27.12825118085622, 122.9319185680026])
    pole = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    towards = np.array([0.0, 0.0, 1.0]) - pole[2] * pole
    towards /= np.linalg.norm(towards)           # along the great circle to the celestial pole
    x = np.cos(node) * towards - np.sin(node) * np.cross(pole, towards)
    eta, xi, alpha = np.radians(np.array([-19.9, 9.1, -22.9]) / 3.6e6)
    turn = np.eye(3) + np.array([[0.0, alpha, -xi], [-alpha, 0.0, -eta], [xi, eta, 0.0]])
    return np.array([x, np.cross(pole, x), pole]) @ turn


GALACTIC = _galactic_axes()


def unit_vectors(lon, lat):
    """Unit vectors (n, 3) of longitudes and latitudes in degrees."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def angles(vectors):
    """Longitude in [0, 360) and latitude in degrees of vectors (n, 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    lon = np.degrees(np.arctan2(y, x)) % 360.0
    return lon, np.degrees(np.arctan2(z, np.hypot(x, y)))


def galactic_to_icrs(lon, lat):
    """RA and Dec in degrees from Galactic longitude and latitude in degrees; NaN stays NaN."""
    return angles(unit_vectors(lon, lat) @ GALACTIC)


def propagate(ra, dec, pm_ra, pm_dec, years):
    """Positions (degrees) after `years`: straight motion in the plane of the sky at constant proper motion
    (mas/yr, pm_ra times cos dec); a NaN proper motion counts as none."""
    a, d = np.radians(ra), np.radians(dec)
    east = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    step = np.radians(years / 3.6e6)
    pm_ra, pm_dec = np.nan_to_num(pm_ra, nan=0.0), np.nan_to_num(pm_dec, nan=0.0)
    return angles(unit_vectors(ra, dec) + step * (pm_ra[:, None] * east + pm_dec[:, None] * north))


class PositionReader:
    """Positions of a raw table by a recipe's Position: `read(rows)` -> ra, dec in degrees (ICRS)."""

    def __init__(self, position, columns):
        self.frame, self.epoch = position.frame, position.epoch
        self.motion = [None, None]
        if self.frame == "designation":
            self.name = columns.template(position.designation, "position")
            self.needed = list(self.name.needed)
            return
        self.axes = [columns.required(position.lon, "position: lon"),
                     columns.required(position.lat, "position: lat")]
        if self.frame == "icrs":
            self.motion = [columns.reference(position.pm_lon, "position: pm_lon"),
                           columns.reference(position.pm_lat, "position: pm_lat")]
        self.needed = [r.name for r in (*self.axes, *self.motion) if r is not None]

    @property
    def moves(self):
        """True where epoch and proper motions are both there."""
        return self.epoch > 0 and all(r is not None for r in self.motion)

    def read(self, rows, sentinel=-9000.0):
        """(ra, dec) float64, degrees; NaN where there is none. Values out of range are kept for the caller
        to count (dec beyond 90 degrees)."""
        if self.frame == "designation":
            return designation_position(self.name.fill(rows, None))
        lon, lat = (axis.numbers(rows, sentinel) for axis in self.axes)
        return galactic_to_icrs(lon, lat) if self.frame == "galactic" else (lon, lat)

    def proper_motion(self, rows, sentinel=-9000.0):
        """(pm_ra, pm_dec) mas/yr; NaN where there is none."""
        return tuple(np.full(len(rows), np.nan) if r is None else r.numbers(rows, sentinel)
                     for r in self.motion)
