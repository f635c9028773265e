"""How much to simulate, and which trajectory goes to which split."""

from __future__ import annotations

from dataclasses import dataclass

from kinetograph import units
from kinetograph.errors import UserError


@dataclass(frozen=True)
class Plan:
    """How much to simulate; counts of steps come from times, which must be whole numbers of steps."""

    n_trajectories: int
    n_frames: int
    """Labelled frames in each trajectory."""
    spacing_fs: float
    """Between labelled frames."""
    timestep_fs: float
    equilibration_ps: float
    reference_ps: float
    """Least length of the reference trajectories; they are never shorter than the labelled ones."""
    reference_spacing_fs: float
    cold_start_ps: float
    temperature_K: float
    seed: int
    platform: str
    threads: int

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UserError: fewer than three trajectories, nothing to do, or times that do not fit each other.
        """
        if self.n_trajectories < 3:
            raise UserError(
                f"{self.n_trajectories} trajectories cannot be split into train, valid and test",
                where="n_trajectories",
                mend="Ask for at least 3: frames are split by trajectory.",
            )
        for name in (
            "n_frames",
            "spacing_fs",
            "timestep_fs",
            "reference_spacing_fs",
            "cold_start_ps",
            "temperature_K",
            "threads",
        ):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be greater than zero", where=name)
        for name in ("equilibration_ps", "reference_ps"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative", where=name)
        _whole(self.spacing_fs, self.timestep_fs, "spacing_fs", "timestep_fs")
        _whole(self.reference_spacing_fs, self.timestep_fs, "reference_spacing_fs", "timestep_fs")
        _whole(self.spacing_fs, self.reference_spacing_fs, "spacing_fs", "reference_spacing_fs")

    @property
    def steps_per_label(self) -> int:
        return round(self.spacing_fs / self.timestep_fs)

    @property
    def steps_per_reference_frame(self) -> int:
        return round(self.reference_spacing_fs / self.timestep_fs)

    @property
    def labels_per_reference(self) -> int:
        """Reference frames from one labelled frame to the next."""
        return round(self.spacing_fs / self.reference_spacing_fs)

    @property
    def n_reference_frames(self) -> int:
        asked = round(self.reference_ps * units.PS_IN_FS / self.reference_spacing_fs)
        return max(asked, self.n_frames * self.labels_per_reference)

    @property
    def n_cold_frames(self) -> int:
        return max(1, round(self.cold_start_ps * units.PS_IN_FS / self.reference_spacing_fs))

    def split_of(self, trajectory: int) -> str:
        """``"train"``, ``"valid"`` or ``"test"``."""
        return {self.n_trajectories - 1: "test", self.n_trajectories - 2: "valid"}.get(trajectory, "train")


def _whole(longer: float, shorter: float, longer_name: str, shorter_name: str) -> None:
    ratio = longer / shorter
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise UserError(
            f"{longer_name} = {longer:g} is not a whole multiple of {shorter_name} = {shorter:g}",
            where=longer_name,
            mend="Change one of them.",
        )
