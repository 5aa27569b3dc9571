"""Hostile files and bad luck, in numbers: what latentrt does with them, and what it must not do.

`python -m torture` runs every row and prints the table of docs/reliability.md.
"""
