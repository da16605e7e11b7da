"""`python -m clarion_server` is `clarion`."""

import sys

from clarion_server.cli import main

sys.exit(main())
