"""The report as one versioned JSON document."""

from __future__ import annotations

import json

from edgekit.report.report import Report


def render(report: Report) -> str:
    """Write every number under the name that the gates use."""
    return json.dumps(report.to_dict(), ensure_ascii=True, allow_nan=False, indent=2) + "\n"
