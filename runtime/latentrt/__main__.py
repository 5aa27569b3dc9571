"""`python -m latentrt` is the same as the `latentrt` command."""

from latentrt.cli import main

if __name__ == "__main__":
    main()
