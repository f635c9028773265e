"""The naive forms that speed-ups are measured against; they live in ``kinetograph.benchmark.naive``."""

from kinetograph.benchmark.naive import Naive, naive_form

__all__ = ["Naive", "naive_form"]
