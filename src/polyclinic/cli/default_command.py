"""Command groups that do something where none of their commands is named."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup


class ShowsByDefault(TyperGroup):
    """``group NODE …`` does the same as ``group show NODE …``."""

    by_default: ClassVar[str] = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.by_default, *args]
        return super().parse_args(ctx, args)


class ListsByDefault(ShowsByDefault):
    """``group NODE …`` does the same as ``group list NODE …``."""

    by_default = "list"
