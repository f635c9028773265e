"""Makes the table of variants importable for the tests beside it."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports tests by path, not from their folder.
sys.path.insert(0, str(Path(__file__).parent))
