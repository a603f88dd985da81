"""`python -m keepstream`: the command line."""

import sys

from keepstream.cli import main

sys.exit(main())
