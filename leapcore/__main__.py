"""``python -m leapcore`` is the ``leapcore`` command."""

from leapcore.cli import main

if __name__ == "__main__":
    main()
