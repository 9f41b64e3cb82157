"""``python -m sslcli``, also what torchrun starts."""

import sys

from sslcli.cli.main import main

sys.exit(main())
