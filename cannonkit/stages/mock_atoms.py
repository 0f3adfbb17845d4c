"""Facts about atoms and molecules for the mock's line model (formats.md D1).

Ionisation energies and term values are those of the NIST compilation, solar abundances those of Asplund
et al. 2009 on the scale log N(H) = 12, spectroscopic constants of molecules those of Huber & Herzberg.
Partition functions are one number and one power of the temperature each: good to about 10 % between 3500 and
8000 K, which is what a test bench needs.
"""

from typing import NamedTuple

import numpy as np


class Element(NamedTuple):
    """One element: mass (atomic units), solar abundance (dex), ionisation energies (eV), partition functions.

    u_neutral and u_ion hold at 5000 K and go as (T/5000)^power. `group` says what the abundance follows:
    'iron' = [Fe/H]; 'alpha' = [Fe/H] + [alpha/Fe]; 'C', 'N' = their own hidden labels.
    """

    symbol: str
    mass: float
    solar: float
    ionisation: float
    u_neutral: float
    power_neutral: float
    u_ion: float
    power_ion: float
    group: str


ELEMENTS = (
    Element("H", 1.008, 12.00, 13.598, 2.0, 0.0, 1.0, 0.0, "iron"),
    Element("C", 12.011, 8.43, 11.260, 9.3, 0.1, 5.9, 0.0, "C"),
    Element("N", 14.007, 7.83, 14.534, 4.1, 0.2, 8.9, 0.0, "N"),
    Element("O", 15.999, 8.69, 13.618, 8.7, 0.1, 4.0, 0.0, "alpha"),
    Element("Na", 22.990, 6.24, 5.139, 2.05, 0.2, 1.0, 0.0, "iron"),
    Element("Mg", 24.305, 7.60, 7.646, 1.03, 0.1, 2.0, 0.0, "alpha"),
    Element("Al", 26.982, 6.45, 5.986, 5.9, 0.0, 1.0, 0.0, "iron"),
    Element("Si", 28.085, 7.51, 8.152, 9.5, 0.15, 5.7, 0.0, "alpha"),
    Element("P", 30.974, 5.41, 10.487, 4.5, 0.2, 8.0, 0.1, "iron"),
    Element("S", 32.06, 7.12, 10.360, 8.2, 0.1, 4.2, 0.1, "alpha"),
    Element("K", 39.098, 5.03, 4.341, 2.2, 0.3, 1.0, 0.0, "iron"),
    Element("Ca", 40.078, 6.34, 6.113, 1.2, 0.8, 2.2, 0.2, "alpha"),
    Element("Sc", 44.956, 3.15, 6.561, 12.0, 0.6, 22.9, 0.2, "iron"),
    Element("Ti", 47.867, 4.95, 6.828, 30.0, 1.2, 56.0, 0.4, "alpha"),
    Element("V", 50.942, 3.93, 6.746, 48.0, 1.0, 43.0, 0.5, "iron"),
    Element("Cr", 51.996, 5.64, 6.767, 10.4, 1.1, 7.2, 0.7, "iron"),
    Element("Mn", 54.938, 5.43, 7.434, 6.5, 0.5, 7.7, 0.4, "iron"),
    Element("Fe", 55.845, 7.50, 7.902, 27.0, 0.9, 43.0, 0.5, "iron"),
    Element("Co", 58.933, 4.99, 7.881, 33.0, 0.6, 29.0, 0.5, "iron"),
    Element("Ni", 58.693, 6.22, 7.640, 30.0, 0.4, 10.5, 0.6, "iron"),
    Element("Cu", 63.546, 4.19, 7.726, 2.3, 0.4, 1.0, 0.1, "iron"),
    Element("Zn", 65.38, 4.56, 9.394, 1.0, 0.0, 2.0, 0.0, "iron"),
    Element("Y", 88.906, 2.21, 6.217, 12.0, 0.7, 15.0, 0.4, "iron"),
    Element("Ba", 137.327, 2.18, 5.212, 3.0, 1.5, 4.2, 0.4, "iron"),
)
SYMBOLS = tuple(e.symbol for e in ELEMENTS)


class Molecule(NamedTuple):
    """A diatomic molecule: its atoms, dissociation energy (eV), lower state's constants (cm-1).

    weight = electronic statistical weight, symmetry = 2 for equal atoms; omega and b of the lower state.
    """

    name: str
    first: str
    second: str
    dissociation: float
    weight: float
    symmetry: float
    omega: float
    b: float


MOLECULES = (
    Molecule("CN", "C", "N", 7.72, 2.0, 1.0, 2068.59, 1.8997),
    Molecule("CO", "C", "O", 11.092, 1.0, 1.0, 2169.81, 1.9313),
    Molecule("OH", "O", "H", 4.392, 4.0, 1.0, 3737.76, 18.911),
    Molecule("C2", "C", "C", 6.30, 6.0, 2.0, 1641.35, 1.6325),
    Molecule("TiO", "Ti", "O", 6.87, 6.0, 1.0, 1009.02, 0.5354),
    Molecule("N2", "N", "N", 9.759, 1.0, 2.0, 2358.57, 1.9982),
    Molecule("H2", "H", "H", 4.478, 1.0, 2.0, 4401.21, 60.853),
)
MOLECULE_NAMES = tuple(m.name for m in MOLECULES)

# Species of a line: 2 i = neutral atom of element i, 2 i + 1 = its first ion, then the molecules.
N_ATOM_SPECIES = 2 * len(ELEMENTS)
N_SPECIES = N_ATOM_SPECIES + len(MOLECULES)


def species_number(name):
    """The number of 'Fe I', 'Ti II', 'CN' ... Raises KeyError for an unknown one."""
    if name in MOLECULE_NAMES:
        return N_ATOM_SPECIES + MOLECULE_NAMES.index(name)
    symbol, _, stage = name.partition(" ")
    if symbol not in SYMBOLS or stage not in ("I", "II"):
        raise KeyError(name)
    return 2 * SYMBOLS.index(symbol) + (stage == "II")


def element_table():
    """(n_element, 7) float64: mass, solar, ionisation, u_neutral, power, u_ion, power."""
    return np.array([e[1:8] for e in ELEMENTS])


def molecule_table():
    """(n_molecule, 7) float64: element numbers of both atoms, D0 eV, weight, symmetry, omega, b (cm-1)."""
    return np.array([(SYMBOLS.index(m.first), SYMBOLS.index(m.second), *m[3:]) for m in MOLECULES])
