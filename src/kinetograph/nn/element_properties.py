"""What the periodic table says of an element: nine properties and a radius, without holes.

ForceNet and its GNS baseline (Hu et al., arXiv:2103.01436) describe an atom by nine properties of its
element, each scaled to 0 … 1 over the table, where other models learn a vector per element. The nine
are those by which CGCNN does so (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018):

======================  ==============================================================================
property                value, and where it comes from
======================  ==============================================================================
group                   1 … 18 by atomic number; 3 throughout the f block
period                  1 … 7 by atomic number
electronegativity       Pauling's scale
covalent radius         Å, Cordero et al., Dalton Trans. 2832 (2008), as ``ase.data`` holds it, to Cm
valence electrons       by atomic number: the group in the s and d blocks, the group less ten in the p
                        block, two more than the place in its row of fourteen in the f block; He 2
ionization energy       eV, the first one (NIST Atomic Spectra Database)
electron affinity       eV; 0 where an extra electron is not bound
block                   s 0, p 1, d 2, f 3, by atomic number; He is s
molar volume            cm³/mol of the condensed element
======================  ==============================================================================

**Missing values** are filled by one rule: an element takes the value of the nearest element of its
column of the periodic table that has one; columns of the f block are pairs such as Nd and U. So He, Ne
and Ar have Kr's electronegativity. Nothing is missing after that, up to Z = 118.

**Atomic radii** are Slater's (J. Chem. Phys. 41, 3199, 1964), derived from distances in crystals, and
where he has none (noble gases, At, Fr, beyond Am) the covalent radius of the table above.

Scaling takes the lowest and highest value among Z = 1 … 100, so that it does not depend on which
elements a model is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from kinetograph.nn.elements import MAX_ATOMIC_NUMBER

PROPERTIES = (
    "group",
    "period",
    "electronegativity",
    "covalent radius",
    "valence electrons",
    "ionization energy",
    "electron affinity",
    "block",
    "molar volume",
)
N_PROPERTIES = len(PROPERTIES)

Column = npt.NDArray[np.float64]

SCALED_UP_TO = 100
"""The elements among which lowest and highest are taken."""
CORDERO_UP_TO = 96
"""The heaviest element with a radius of Cordero's; what ASE holds beyond is a placeholder."""

NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)

# Electronegativity, ionization energy (eV), electron affinity (eV), molar volume (cm³/mol), Slater's
# radius (pm); – where there is none.
MEASURED = """
H  2.20 13.598 0.754 11.42  25    He –    24.587 0     21.00   –
Li 0.98  5.392 0.618 13.02 145    Be 1.57  9.323 0      4.85 105
B  2.04  8.298 0.280  4.39  85    C  2.55 11.260 1.262  5.29  70
N  3.04 14.534 0     13.54  65    O  3.44 13.618 1.461 17.36  60
F  3.98 17.423 3.401 11.20  50    Ne –    21.565 0     13.23   –
Na 0.93  5.139 0.548 23.78 180    Mg 1.31  7.646 0     14.00 150
Al 1.61  5.986 0.433 10.00 125    Si 1.90  8.152 1.390 12.06 110
P  2.19 10.487 0.747 17.02 100    S  2.58 10.360 2.077 15.53 100
Cl 3.16 12.968 3.613 17.39 100    Ar –    15.760 0     22.56   –
K  0.82  4.341 0.501 45.94 220    Ca 1.00  6.113 0.025 26.20 180
Sc 1.36  6.561 0.179 15.00 160    Ti 1.54  6.828 0.076 10.64 140
V  1.63  6.746 0.528  8.32 135    Cr 1.66  6.767 0.676  7.23 140
Mn 1.55  7.434 0      7.35 140    Fe 1.83  7.902 0.153  7.09 140
Co 1.88  7.881 0.662  6.67 135    Ni 1.91  7.640 1.157  6.59 135
Cu 1.90  7.726 1.236  7.11 135    Zn 1.65  9.394 0      9.16 135
Ga 1.81  5.999 0.301 11.80 130    Ge 2.01  7.899 1.233 13.63 125
As 2.18  9.789 0.804 12.95 115    Se 2.55  9.752 2.021 16.42 115
Br 2.96 11.814 3.364 19.78 115    Kr 3.00 14.000 0     27.99   –
Rb 0.82  4.177 0.486 55.76 235    Sr 0.95  5.695 0.052 33.94 200
Y  1.22  6.217 0.311 19.88 180    Zr 1.33  6.634 0.433 14.02 155
Nb 1.60  6.759 0.917 10.83 145    Mo 2.16  7.092 0.747  9.38 145
Tc 1.90  7.119 0.550  8.63 135    Ru 2.20  7.361 1.046  8.17 130
Rh 2.28  7.459 1.143  8.28 135    Pd 2.20  8.337 0.562  8.56 140
Ag 1.93  7.576 1.304 10.27 160    Cd 1.69  8.994 0     13.00 155
In 1.78  5.786 0.299 15.76 155    Sn 1.96  7.344 1.112 16.29 145
Sb 2.05  8.608 1.047 18.19 145    Te 2.10  9.010 1.971 20.46 140
I  2.66 10.451 3.059 25.72 140    Xe 2.60 12.130 0     35.92   –
Cs 0.79  3.894 0.472 70.94 260    Ba 0.89  5.212 0.145 38.16 215
La 1.10  5.577 0.558 22.39 195    Ce 1.12  5.539 0.600 20.69 185
Pr 1.13  5.473 0.109 20.80 185    Nd 1.14  5.525 0.097 20.59 185
Pm 1.13  5.582 0.129 20.23 185    Sm 1.17  5.644 0.162 19.98 185
Eu 1.20  5.670 0.116 28.97 185    Gd 1.20  6.150 0.212 19.90 180
Tb 1.10  5.864 0.131 19.30 175    Dy 1.22  5.939 0.015 19.01 175
Ho 1.23  6.022 0.338 18.74 175    Er 1.24  6.108 0.312 18.46 175
Tm 1.25  6.184 1.029 19.10 175    Yb 1.10  6.254 0     24.84 175
Lu 1.27  5.426 0.239 17.78 175    Hf 1.30  6.825 0.178 13.44 155
Ta 1.50  7.550 0.329 10.85 145    W  2.36  7.864 0.817  9.47 135
Re 1.90  7.834 0.060  8.86 135    Os 2.20  8.438 1.078  8.42 130
Ir 2.20  8.967 1.564  8.52 135    Pt 2.28  8.959 2.125  9.09 135
Au 2.54  9.226 2.309 10.21 135    Hg 2.00 10.437 0     14.09 150
Tl 1.62  6.108 0.320 17.22 190    Pb 2.33  7.417 0.357 18.26 180
Bi 2.02  7.286 0.942 21.31 160    Po 2.00  8.414 1.400 22.97 190
At 2.20  9.318 2.416 –       –    Rn 2.20 10.749 0     50.50   –
Fr 0.70  4.073 0.486 –       –    Ra 0.90  5.278 0.100 41.09 215
Ac 1.10  5.380 0.350 22.55 195    Th 1.30  6.307 0.608 19.80 180
Pa 1.50  5.890 0.550 15.18 180    U  1.38  6.194 0.315 12.49 175
Np 1.36  6.266 0.480 11.59 175    Pu 1.28  6.026 0     12.29 175
Am 1.30  5.974 0.100 17.63 175    Cm 1.30  5.991 0.280 18.05   –
Bk 1.30  6.198 0     16.84   –    Cf 1.30  6.282 0     16.50   –
Es 1.30  6.368 0     28.52   –    Fm 1.30  6.500 0.350 –       –
"""


def element_properties(elements: Sequence[int]) -> Tensor:
    """(n_elements, 9) of the default type: the properties in the order of ``PROPERTIES``, each 0 … 1.

    >>> element_properties([1, 54]).shape
    torch.Size([2, 9])
    """
    table = _properties()
    lowest, highest = table[1 : SCALED_UP_TO + 1].min(axis=0), table[1 : SCALED_UP_TO + 1].max(axis=0)
    scaled = (table[list(elements)] - lowest) / (highest - lowest)
    return torch.as_tensor(scaled, dtype=torch.get_default_dtype())


def atomic_radii(elements: Sequence[int]) -> Tensor:
    """(n_elements,) Å of the default type: Slater's radii, and covalent radii where he has none."""
    slater = 0.01 * _measured()[4]
    radii = np.where(np.isnan(slater), _covalent_radii(), slater)
    return torch.as_tensor(radii[list(elements)], dtype=torch.get_default_dtype())


@cache
def period(z: int) -> int:
    """Row of the periodic table, 1 … 7."""
    return next(row for row, last in enumerate(NOBLE_GASES) if z <= last)


@cache
def group(z: int) -> int:
    """Column of the periodic table, 1 … 18; 3 throughout the f block."""
    place = z - NOBLE_GASES[period(z) - 1]
    length = NOBLE_GASES[period(z)] - NOBLE_GASES[period(z) - 1]
    if place <= 2 and length > 2:
        return place
    return max(place - length + 18, 3) if length > 2 or place == 2 else 1


def block(z: int) -> int:
    """0 for s, 1 for p, 2 for d, 3 for f."""
    if _f_place(z):
        return 3
    if group(z) <= 2 or z == 2:
        return 0
    return 1 if group(z) >= 13 else 2


def valence_electrons(z: int) -> int:
    """Electrons outside the noble-gas core, without d and f shells that were filled before."""
    if z == 2:
        return 2
    if _f_place(z):
        return 2 + _f_place(z)
    return group(z) - 10 if block(z) == 1 else group(z)


def _f_place(z: int) -> int:
    """1 … 14 for La … Yb and Ac … No, 0 elsewhere."""
    place = z - NOBLE_GASES[period(z) - 1] - 2
    return place if period(z) >= 6 and 1 <= place <= 14 else 0


@cache
def _properties() -> Column:
    """(119, 9) with row 0 unused; made once, not to be written to."""
    numbers = range(MAX_ATOMIC_NUMBER + 1)
    electronegativity, ionization, affinity, volume = (_filled(column) for column in _measured()[:4])

    def by_number(function: Callable[[int], int]) -> Column:
        return np.array([float(function(z)) if z else 0.0 for z in numbers])

    columns = {
        "group": by_number(group),
        "period": by_number(period),
        "electronegativity": electronegativity,
        "covalent radius": _covalent_radii(),
        "valence electrons": by_number(valence_electrons),
        "ionization energy": ionization,
        "electron affinity": affinity,
        "block": by_number(block),
        "molar volume": volume,
    }
    return np.stack([columns[name] for name in PROPERTIES], axis=1)


@cache
def _covalent_radii() -> Column:
    """(119,) Å."""
    radii = np.full(MAX_ATOMIC_NUMBER + 1, np.nan)
    radii[1 : CORDERO_UP_TO + 1] = covalent_radii[1 : CORDERO_UP_TO + 1]
    return _filled(radii)


@cache
def _measured() -> Column:
    """(5, 119): the columns of ``MEASURED`` by atomic number, NaN where there is no value."""
    table = np.full((5, MAX_ATOMIC_NUMBER + 1), np.nan)
    words = MEASURED.split()
    for symbol, *values in zip(*(words[k::6] for k in range(6)), strict=True):
        table[:, chemical_symbols.index(symbol)] = [np.nan if v == "–" else float(v) for v in values]
    return table


def _filled(column: Column) -> Column:
    """A (119,) column with every missing value taken from the nearest element of its family."""

    def family(z: int) -> tuple[int, int]:
        return (group(z), _f_place(z))

    numbers = range(1, MAX_ATOMIC_NUMBER + 1)
    known = [z for z in numbers if not np.isnan(column[z])]
    filled = column.copy()
    for z in numbers:
        if np.isnan(column[z]):
            relatives = [k for k in known if family(k) == family(z)]
            filled[z] = column[min(relatives, key=lambda k: abs(period(k) - period(z)))]
    return filled
