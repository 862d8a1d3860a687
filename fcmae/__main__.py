"""``fcmae COMMAND …`` and ``python -m fcmae COMMAND …``."""

from typing import NoReturn

from fcmae.cli.command import end
from fcmae.cli.main import main


def run() -> NoReturn:
    """Run the command line and end the process."""
    end(main())


if __name__ == "__main__":
    run()
