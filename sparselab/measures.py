"""What a mask retains, what it could at best, and the paper's efficacy: ``sl.measures``."""

from __future__ import annotations

from sparselab.core.measures import efficacy, ideal, keep_count, lost_percent, retained

__all__ = ["efficacy", "ideal", "keep_count", "lost_percent", "retained"]
