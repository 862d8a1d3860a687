"""``python -m fcmae COMMAND …``: the same as ``fcmae COMMAND …``."""

from fcmae.cli.main import run

if __name__ == "__main__":
    run()
