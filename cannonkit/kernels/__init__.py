"""Compiled loops: arrays in, arrays out. Importing any of them sets up the kernel cache and BLAS first."""
from cannonkit.kernels import blas, cache

cache.install()
blas.load()
