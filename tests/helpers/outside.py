"""Large data that lies beside the checkout, not in it; tests that read it are skipped where it is absent."""

from pathlib import Path

OUTSIDE = Path(__file__).parents[3] / "shared"
