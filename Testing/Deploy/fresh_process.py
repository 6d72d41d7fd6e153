"""A process in which this package is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_without_medquant(script: Path) -> subprocess.CompletedProcess[str]:
    """A fresh process in which medquant cannot be imported."""
    guard = (
        "import runpy, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'medquant': raise ImportError('medquant is not here')\n"
        "sys.meta_path.insert(0, Without())\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", guard, str(script)], capture_output=True, text=True, timeout=300)
