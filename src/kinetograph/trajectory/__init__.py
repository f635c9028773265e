"""Trajectories on disk: H5MD 1.1 files, written so that a killed run leaves a readable one.

The layout is that of de Buyl, Colberg and Höfling, Comput. Phys. Commun. 185, 1546 (2014), with the
unit strings that MDAnalysis knows; MDAnalysis and VMD open the files.

==================================================  ====================================================
group                                               holds
==================================================  ====================================================
``particles/trajectory/position, velocity, force``  float32; Å, Å/fs, kJ/(mol Å); positions not wrapped
``particles/trajectory/box/edges``                  float64, Å, rows are cell vectors; absent for molecules
``particles/trajectory/species, mass``              atomic numbers; amu
``connectivity/bonds``                              pairs of atoms, where known
``observables/temperature_K`` and others            float64, one number a frame
``observables/stress_eV_per_A3``                    float64, 3 × 3, tension positive
``parameters/kinetograph/metadata``                 JSON: what made the run
==================================================  ====================================================

Single precision resolves 10⁻⁵ Å at 100 Å from the origin, and halves the file; a restart does not
use it, since checkpoints hold double precision. How the vectors are compressed stands in
:mod:`kinetograph.trajectory.h5md`.

Frames are gathered in batches, which a thread compresses and appends while the run goes on; the memory
for them does not grow. Between batches the file is closed. During a batch it is in HDF5's single-writer
mode, in which what was there before stays readable whatever happens. The steps of a batch are written
last, so a frame counts once it is there completely. A killed run loses the frames gathered since the last
flush: those of half a minute, or of the last two batches where these fill faster.
"""

from kinetograph.trajectory.layout import Frame
from kinetograph.trajectory.reader import Trajectory
from kinetograph.trajectory.writer import TrajectoryWriter

__all__ = ["Frame", "Trajectory", "TrajectoryWriter"]
