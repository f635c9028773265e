"""What is measured on forces and trajectories; nothing here knows what made them."""

from kinetograph.analysis.analyze import Analysis, RunSet, analyze
from kinetograph.analysis.energies import EnergyErrors, energy_errors
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
from kinetograph.analysis.pair_counting import radial_distributions
from kinetograph.analysis.rdf import FirstPeak, RadialDistribution, RdfComparison, compare_rdf
from kinetograph.analysis.relaxation import RelaxationScores, reference_forces, relaxation_scores
from kinetograph.analysis.statistics import SeriesStatistics, series_statistics, statistical_inefficiency
from kinetograph.analysis.stresses import StressErrors, stress_errors

__all__ = [
    "Analysis",
    "EnergyErrors",
    "FirstPeak",
    "ForceErrors",
    "ForceMagnitudes",
    "RadialDistribution",
    "RdfComparison",
    "RelaxationScores",
    "RunSet",
    "SeriesStatistics",
    "StressErrors",
    "TemperatureStatistics",
    "Trace",
    "TraceComparison",
    "analyze",
    "compare_rdf",
    "compare_traces",
    "degrees_of_freedom",
    "energy_errors",
    "force_errors",
    "force_magnitudes",
    "kinetic_energy_trace",
    "radial_distributions",
    "reference_forces",
    "relaxation_scores",
    "series_statistics",
    "starts_cold",
    "statistical_inefficiency",
    "stress_errors",
    "temperature_statistics",
    "temperature_trace",
]
