"""The families: every tiny network by name."""

from __future__ import annotations

from oracle import modulated, plain, spatial
from oracle.case import FAMILIES, Case

__all__ = ["FAMILIES", "Case", "modulated", "plain", "spatial"]
