"""Tables about whole models: what a pattern would cost each layer, and whether a model really is sparse."""

from __future__ import annotations

from sparselab.reports.audit import check
from sparselab.reports.magnitude import Counted, magnitude_report

__all__ = ["Counted", "check", "magnitude_report"]
