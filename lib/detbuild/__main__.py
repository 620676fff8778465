# SPDX-License-Identifier: MIT
"""``python -m detbuild`` is ``detbuild``."""

import sys

from detbuild.cli.main import main

sys.exit(main())
