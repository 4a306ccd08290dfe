"""`python -m inversion` is `inversion`."""

from inversion.cli import main

if __name__ == "__main__":
    main()
