"""Commands whose help lists their options by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

OTHERS = "Other options"


class GroupedCommand(click.Command):
    """A command with its options in groups.

    groups: parameter names by the group's title, in the order of the help. rest: the title of options of no group.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], rest: str = OTHERS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups, self.rest = groups, rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per group."""
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        records = {option.name: option.get_help_record(ctx) for option in options}
        grouped = {name for names in self.groups.values() for name in names}
        rest = [*self.groups.get(self.rest, ()), *(name for name in records if name not in grouped)]
        for title, names in {**self.groups, self.rest: rest}.items():
            rows = [record for name in names if (record := records[name]) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
