import subprocess
import sys

import pytest

from keepstream.commands import NAMES

LEARN = {"demo", "init", "features", "replay", "train", "compare", "checkpoints"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARN])
def test_what_does_not_learn_does_not_wait_for_torch(name):
    """A worker or a look at the topics starts in a second and takes half the memory."""
    code = f"""
import sys
from keepstream.cli import parser
parser("{name}")
sys.exit(int("torch" in sys.modules))
"""
    assert 0 == subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode
