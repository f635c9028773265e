"""A model for each case of the grid, built once for all of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

# The table of variants lies beside the tests, which pytest imports by path.
sys.path.insert(0, str(Path(__file__).parent))
