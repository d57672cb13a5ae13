"""Facts about this machine."""

from __future__ import annotations

import platform
import re
from pathlib import Path

__all__ = ["processor_name"]

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the name of the processor; its architecture where the system reports no name."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    model = re.search(r"^model name\s*: (.*)$", text, flags=re.M)
    return model[1].strip() if model else platform.processor() or platform.machine()
