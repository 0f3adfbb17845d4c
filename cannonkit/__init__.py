"""cannonkit: two surveys on one scale with the Cannon, as small executables on FITS files."""

__version__ = "0.1.0"
