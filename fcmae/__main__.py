"""``python -m fcmae COMMAND …``: the same as ``fcmae COMMAND …``."""

import sys

from fcmae.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
