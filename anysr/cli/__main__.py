"""``python -m anysr.cli``."""

import sys

from anysr.cli import main

sys.exit(main())
