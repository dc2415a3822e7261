"""``python -m ksched``: the same as the command ``ksched``."""

from ksched.cli import main

if __name__ == "__main__":
    main()
