"""``python -m sslcli``, also what torchrun starts."""

import os
import sys

from sslcli.cli.main import main

code = main()
if os.environ.get("WORLD_SIZE", "1") != "1":
    # Threads of gloo outlive the process group where a model was distributed. While Python ends, one of them
    # can abort a run that is done, or wait for an exchange that a dead process will not answer.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
