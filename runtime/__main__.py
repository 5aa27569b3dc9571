"""`python -m latentrt` is the same as the `latentrt` command."""

from latentrt.cli import main

main()
