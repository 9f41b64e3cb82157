"""``python -m sslcli``, also what torchrun starts."""

import os
import sys

from sslcli.cli.main import main

code = main()
if code and os.environ.get("WORLD_SIZE", "1") != "1":
    # With an exchange under way that a dead process will not answer, torch can keep Python from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
