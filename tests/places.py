"""Where the tests, and the repository around them, are."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
COMMAND = (
    sys.executable,
    "-m",
    "hiergal.cli",
)  # the hiergal command, also of a source tree that is not installed
