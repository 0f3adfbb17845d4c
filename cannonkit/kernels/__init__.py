"""Compiled loops: arrays in, arrays out. Importing any of them sets up the kernel cache first."""
from cannonkit.kernels import cache

cache.install()
