"""``python -m sparselab.command_line``: the ``sparselab`` command."""

from __future__ import annotations

import sys

from sparselab.command_line.main import main

sys.exit(main())
