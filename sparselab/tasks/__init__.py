"""Real networks and real data to try sparsity on."""

from __future__ import annotations

from sparselab.tasks.efficientnet_lite import efficientnet_lite0
from sparselab.tasks.pictures import LabelledPictures, top1

__all__ = ["LabelledPictures", "efficientnet_lite0", "top1"]
