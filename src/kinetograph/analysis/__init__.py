"""What is measured on forces and trajectories; nothing here knows what made them."""

from kinetograph.analysis.analyze import Analysis, RunSet, analyze
from kinetograph.analysis.energy import (
    ForceMagnitudes,
    TemperatureStatistics,
    Trace,
    TraceComparison,
    compare_traces,
    degrees_of_freedom,
    force_magnitudes,
    kinetic_energy_trace,
    starts_cold,
    temperature_statistics,
    temperature_trace,
)
from kinetograph.analysis.forces import ForceErrors, force_errors
from kinetograph.analysis.statistics import SeriesStatistics, series_statistics, statistical_inefficiency
from kinetograph.analysis.structure import (
    FirstPeak,
    RadialDistribution,
    RdfComparison,
    compare_rdf,
    radial_distributions,
)

__all__ = [
    "Analysis",
    "FirstPeak",
    "ForceErrors",
    "ForceMagnitudes",
    "RadialDistribution",
    "RdfComparison",
    "RunSet",
    "SeriesStatistics",
    "TemperatureStatistics",
    "Trace",
    "TraceComparison",
    "analyze",
    "compare_rdf",
    "compare_traces",
    "degrees_of_freedom",
    "force_errors",
    "force_magnitudes",
    "kinetic_energy_trace",
    "radial_distributions",
    "series_statistics",
    "starts_cold",
    "statistical_inefficiency",
    "temperature_statistics",
    "temperature_trace",
]
