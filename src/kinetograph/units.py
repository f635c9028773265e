"""Units: eV, Å, fs, amu and K inside; everything else is converted here, once.

Constants are CODATA 2018 (exact since the 2019 revision of the SI where the SI defines them).
With these base units the natural unit of mass would be eV fs²/Å², so masses in amu carry the
factor :data:`AMU_A2_PER_FS2_IN_EV` wherever force becomes acceleration or velocity becomes energy.
"""

from __future__ import annotations

ELEMENTARY_CHARGE_C = 1.602176634e-19  # exact
BOLTZMANN_J_PER_K = 1.380649e-23  # exact
AVOGADRO_PER_MOL = 6.02214076e23  # exact
ATOMIC_MASS_KG = 1.66053906660e-27

BOLTZMANN_EV_PER_K = BOLTZMANN_J_PER_K / ELEMENTARY_CHARGE_C
"""Boltzmann's constant in eV/K."""

AMU_A2_PER_FS2_IN_EV = ATOMIC_MASS_KG * 1e10 / ELEMENTARY_CHARGE_C
"""One amu Å²/fs² in eV: kinetic energy in eV is half this times m v²."""

EV_IN_KJ_PER_MOL = ELEMENTARY_CHARGE_C * AVOGADRO_PER_MOL / 1000.0
"""One eV in kJ/mol."""

KJ_PER_MOL_IN_EV = 1.0 / EV_IN_KJ_PER_MOL
KCAL_PER_MOL_IN_EV = 4.184 / EV_IN_KJ_PER_MOL

NM_IN_A = 10.0
PS_IN_FS = 1000.0

KJ_PER_MOL_NM_IN_EV_PER_A = KJ_PER_MOL_IN_EV / NM_IN_A
"""OpenMM's unit of force in eV/Å."""

EV_PER_A_IN_KJ_PER_MOL_A = EV_IN_KJ_PER_MOL
"""One eV/Å in kJ/(mol Å), the unit of force that H5MD readers know."""

EV_PER_A3_IN_BAR = ELEMENTARY_CHARGE_C * 1e30 / 1e5
"""One eV/Å³ in bar."""

AMU_PER_A3_IN_G_PER_CM3 = ATOMIC_MASS_KG * 1e3 * 1e24
"""One amu/Å³ in g/cm³."""

ASE_TIME_IN_FS = AMU_A2_PER_FS2_IN_EV**0.5
"""ASE's unit of time, Å sqrt(amu/eV), in fs: multiply ASE velocities by 1/this to get Å/fs."""
