"""``python -m ksched`` runs the ``ksched`` command."""

from ksched.cli import main

if __name__ == "__main__":
    main()
