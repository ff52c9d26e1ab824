"""``python -m hiergal.cli`` is the ``hiergal`` command."""

from hiergal.cli.app import main

if __name__ == "__main__":
    main()
