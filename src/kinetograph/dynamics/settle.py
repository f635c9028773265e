"""SETTLE: rigid triangles, such as water, in closed form.

S. Miyamoto, P. A. Kollman, J. Comput. Chem. 13, 952 (1992). A is the apex; B and C are alike: equal in mass
and equally far from A. In a frame whose Z is the normal of the old triangle, and whose X is at right angles
to Z and to the way from the new centre of mass to the new A, the held triangle is a standard one turned by
three angles. φ about X and ψ about Y tilt it out of the plane: they follow from the heights of the atoms over
that plane, which constraint forces along the old bonds cannot change. θ turns it about Z: these forces exert
no torque, so that Σ m r_old × (r_held − r_new) is zero along Z, which is α sin θ + β cos θ = γ.

=============  ============================================================================
symbol         in code
=============  ============================================================================
r_a, r_b, r_c  apex_height, base_depth, half_base
X, Y, Z        rows of frame
B0             xb0, yb0: old position of B less that of A, in the frame
B1             xb1, yb1, zb1: new position of B less the centre of mass
B2             xb2, yb2: of the standard triangle after the turns by φ and ψ
B3             b3: after that by θ too
α, β, γ        alpha, beta, gamma
=============  ============================================================================

Velocities lose what changes a length: three linear equations for each triangle (those of RATTLE), solved by
Cramer's rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Triangles:
    """Triangles with two equal sides between three atoms that are free to move, two of them of equal mass."""

    atoms: Tensor
    """(n, 3) int64: A, B, C."""
    inverse_mass: Tensor
    """(n, 3, 1) 1/amu."""
    coupling: Tensor
    """(n, 3, 3) 1/amu: M of the bonds AB, BC and CA; see ``rigid``."""
    mass_share: Tensor
    """(n, 3, 1) mass of the atom over that of the triangle."""
    apex_height: Tensor
    """(n,) Å: from the centre of mass up to A."""
    base_depth: Tensor
    """(n,) Å: from the centre of mass down to the line BC."""
    half_base: Tensor
    """(n,) Å: half of BC."""

    def held_positions(self, old: Tensor, new: Tensor) -> Tensor:
        """(n_atoms, 3) Å: ``new`` moved along the bonds of ``old`` until every side has its length.

        The sides of ``old`` must have theirs. What cannot be mended comes out as NaN.
        """
        before, after = old[self.atoms], new[self.atoms]
        centre = (self.mass_share * after).sum(dim=1, keepdim=True)
        after = after - centre
        legs = before[:, 1:] - before[:, :1]
        z = torch.linalg.cross(legs[:, 0], legs[:, 1])
        x = torch.linalg.cross(after[:, 0], z)
        frame = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
        frame = frame / torch.linalg.vector_norm(frame, dim=2, keepdim=True)
        in_frame = torch.cat([legs, after], dim=1) @ frame.mT
        (xb0, yb0, _), (xc0, yc0, _), (_, _, za1), (xb1, yb1, zb1), (xc1, yc1, zc1) = (
            atom.unbind(dim=1) for atom in in_frame.unbind(dim=1)
        )

        sin_phi = za1 / self.apex_height
        cos_phi = (1.0 - sin_phi * sin_phi).sqrt()
        sin_psi = (zb1 - zc1) / (2.0 * self.half_base * cos_phi)
        cos_psi = (1.0 - sin_psi * sin_psi).sqrt()
        ya2 = self.apex_height * cos_phi
        xb2 = -self.half_base * cos_psi
        depth, lean = self.base_depth * cos_phi, self.half_base * sin_psi * sin_phi
        yb2, yc2 = -depth - lean, -depth + lean

        alpha = xb2 * (xb0 - xc0) + yb0 * yb2 + yc0 * yc2
        beta = xb2 * (yc0 - yb0) + xb0 * yb2 + xc0 * yc2
        gamma = xb0 * yb1 - xb1 * yb0 + xc0 * yc1 - xc1 * yc0
        square = alpha * alpha + beta * beta
        sin = (alpha * gamma - beta * (square - gamma * gamma).sqrt()) / square
        cos = (1.0 - sin * sin).sqrt()

        a3 = (-ya2 * sin, ya2 * cos, za1)
        b3 = (xb2 * cos - yb2 * sin, xb2 * sin + yb2 * cos, zb1)
        c3 = (-xb2 * cos - yc2 * sin, -xb2 * sin + yc2 * cos, zc1)
        held = torch.stack([*a3, *b3, *c3], dim=1).reshape(-1, 3, 3) @ frame + centre
        return new.index_copy(0, self.atoms.reshape(-1), held.reshape(-1, 3))

    def held_velocities(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """(n_atoms, 3) Å/fs: velocities without the part that would change the length of a side."""
        atoms, own = positions[self.atoms], velocities[self.atoms]
        bonds = atoms.roll(-1, dims=1) - atoms
        opening = torch.einsum("nex,nex->ne", bonds, own.roll(-1, dims=1) - own)
        pull = solve_three(self.coupling * (bonds @ bonds.mT), -opening).unsqueeze(2) * bonds
        held = own + self.inverse_mass * (pull.roll(1, dims=1) - pull)
        return velocities.index_copy(0, self.atoms.reshape(-1), held.reshape(-1, 3))


def solve_three(matrix: Tensor, right: Tensor) -> Tensor:
    """(n, 3): x of A x = b for symmetric A (n, 3, 3), by Cramer's rule."""
    cofactors = torch.linalg.cross(matrix.roll(-1, dims=1), matrix.roll(-2, dims=1))
    determinant = (matrix[:, :1] * cofactors[:, :1]).sum(dim=2)
    solution: Tensor = (cofactors @ right.unsqueeze(2)).squeeze(2) / determinant
    return solution


def find_triangles(pairs: Tensor, lengths: Tensor, inverse_mass: Tensor) -> tuple[Tensor, Triangles]:
    """Which clusters of three bonds SETTLE can hold, and these.

    Args:
        pairs: (n_clusters, 3, 2) atoms of each bond.
        lengths: (n_clusters, 3) Å.
        inverse_mass: (n_atoms,) 1/amu; zero for fixed atoms.

    Returns:
        (n_clusters,) bool, and the triangles among them in the same order.
    """
    corners = pairs.reshape(-1, 6).sort(dim=1)[0]
    closed = (corners[:, ::2] == corners[:, 1::2]).all(dim=1) & (inverse_mass[corners] > 0).all(dim=1)
    # A bond is the base where the other two have one length and its own atoms one mass.
    alike = inverse_mass[pairs[:, :, 0]] == inverse_mass[pairs[:, :, 1]]
    is_base = alike & (lengths.roll(-1, dims=1) == lengths.roll(-2, dims=1))
    chosen = closed & is_base.any(dim=1)
    base = is_base[chosen].long().argmax(dim=1, keepdim=True)
    base_atoms = pairs[chosen].take_along_dim(base.unsqueeze(2), dim=1).squeeze(1)
    apex = corners[chosen, ::2].sum(dim=1, keepdim=True) - base_atoms.sum(dim=1, keepdim=True)
    atoms = torch.cat([apex, base_atoms], dim=1)

    half_base = 0.5 * lengths[chosen].take_along_dim(base, dim=1).squeeze(1)
    leg = lengths[chosen].take_along_dim((base + 1) % 3, dim=1).squeeze(1)
    height = (leg.square() - half_base.square()).sqrt()
    mass = 1.0 / inverse_mass[atoms]
    mass_share = mass / mass.sum(dim=1, keepdim=True)
    base_share = mass_share[:, 1] + mass_share[:, 2]
    one = torch.eye(3, dtype=lengths.dtype, device=lengths.device)
    ends = one.roll(1, dims=1) - one  # of each bond: its second atom less its first
    return chosen, Triangles(
        atoms=atoms,
        inverse_mass=inverse_mass[atoms].unsqueeze(2),
        coupling=(ends * inverse_mass[atoms].unsqueeze(1)) @ ends.T,
        mass_share=mass_share.unsqueeze(2),
        apex_height=height * base_share,
        base_depth=height * (1.0 - base_share),
        half_base=half_base,
    )
