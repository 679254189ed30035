"""The toy core lives with the tests of generation; the gate's tests use it as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "synthesis"))
