"""``python -m fcmae COMMAND …``: the same as ``fcmae COMMAND …``."""

from fcmae.cli.command import end
from fcmae.cli.main import main

if __name__ == "__main__":
    end(main())
