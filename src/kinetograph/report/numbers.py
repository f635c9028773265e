"""Which numbers a page shows, and how a number is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from kinetograph.report.record import RunRecord

Json = dict[str, Any]


@dataclass(frozen=True)
class Quantity:
    """How one number of a summary is shown."""

    label: str
    unit: str
    factor: float = 1.0
    digits: int = 4
    """Significant digits where no error is known."""
    error_key: str | None = None
    note: str = ""


QUANTITIES = {
    "force_mae_eV_per_A": Quantity("Force MAE", "meV/Å", 1000.0, 3, note="per component"),
    "force_rmse_eV_per_A": Quantity("Force RMSE", "meV/Å", 1000.0, 3, note="per component"),
    "relative_error": Quantity("Relative force error", "%", 100.0, 3, note="Σ|ΔF| / Σ|F|"),
    "cosine_mean": Quantity("Mean force cosine", "", 1.0, 5),
    "cosine_p05": Quantity("5th percentile of cosine", "", 1.0, 5),
    "cosine_share_above_0.96": Quantity("Cosine above 0.96", "%", 100.0, 4, note="share of atoms"),
    "cosine_share_above_0.995": Quantity("Cosine above 0.995", "%", 100.0, 4, note="share of atoms"),
    "energy_mae_eV_per_atom": Quantity("Energy MAE", "meV/atom", 1000.0, 3),
    "energy_rmse_eV_per_atom": Quantity("Energy RMSE", "meV/atom", 1000.0, 3),
    "stress_mae_eV_per_A3": Quantity("Stress MAE", "meV/Å³", 1000.0, 3, note="per component"),
    "rdf_mae": Quantity("Mean |Δg(r)|", "", 1.0, 2, note="against the reference"),
    "temperature_K": Quantity("Temperature", "K", 1.0, 4, "temperature_error_K", "± standard error"),
    "reference_temperature_K": Quantity(
        "Reference temperature", "K", 1.0, 4, "reference_temperature_error_K", "± standard error"
    ),
    "temperature_std_K": Quantity("Temperature spread", "K", 1.0, 3, note="standard deviation"),
    "temperature_std_expected_K": Quantity("Expected spread", "K", 1.0, 3, note="canonical ensemble"),
    "cold_start_kinetic_energy_deviation": Quantity(
        "Cold start, kinetic energy", "%", 100.0, 2, note="mean deviation"
    ),
    "force_magnitude_total_variation": Quantity("Force sizes, total variation", "", 1.0, 2),
    "ns_per_day": Quantity("Speed", "ns/day", 1.0, 3),
}
TILES = (
    "force_mae_eV_per_A",
    "relative_error",
    "cosine_mean",
    "cosine_share_above_0.995",
    "energy_mae_eV_per_atom",
    "rdf_mae",
    "temperature_K",
    "ns_per_day",
)


def numbers_of(run: RunRecord) -> Json:
    """Evaluation, analysis and summary in one; the summary has the last word."""
    numbers: Json = {}
    for source in (run.errors, (run.analysis or {}).get("summary"), run.summary):
        numbers |= {key: value for key, value in (source or {}).items() if key not in ("per_element",)}
    return numbers


def quantity_text(key: str, numbers: Json) -> str:
    """One of :data:`QUANTITIES` in its unit, without the unit's name."""
    quantity, value = QUANTITIES[key], numbers.get(key)
    if not is_number(value):
        return "–"
    error = numbers.get(quantity.error_key) if quantity.error_key else None
    if is_number(error):
        return with_error(quantity.factor * value, quantity.factor * error)
    if "cosine" in key and quantity.factor == 1.0:
        return f"{value:.5f}"
    return significant(quantity.factor * value, quantity.digits)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def significant(value: float | None, digits: int) -> str:
    """A number with so many significant digits, without an exponent where it can be read without one."""
    if not is_number(value):
        return "–"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 6:
        power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{value / 10.0**exponent:.{digits - 1}f} × 10{power}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def with_error(value: float | None, error: float | None) -> str:
    """``100.3 ± 0.4``: the error with one digit, two where it starts with 1; the value to the same place."""
    if not is_number(value):
        return "–"
    if not is_number(error) or error <= 0:
        return significant(value, 4)
    exponent = math.floor(math.log10(error))
    places = max(0, -exponent + (1 if error / 10.0**exponent < 1.95 else 0))
    return f"{value:,.{places}f} ± {error:.{places}f}".replace("-", "−")


def percent(share: float | None) -> str:
    return f"{100 * share:.0f}" if is_number(share) else "–"


def formula(text: str) -> str:
    """``H2O`` with its digits as subscripts."""
    return text.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
