"""Generated pages of the site: the commands with their options, from the command line's parser."""

import re
from typing import Any

import typer
from mkdocs.structure.files import File, Files

import styletransfer.cli  # noqa: F401  adds the commands to the parser
from styletransfer.cli.arguments import EXIT_CODES, GROUPS, app


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/commands.md", content=describe_commands()))
    return files


def describe_commands() -> str:
    """Return the reference of all commands as Markdown."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="styletransfer")
    parts = [
        "# Commands",
        "Generated from the command line's parser: the same texts as `styletransfer COMMAND --help`.",
        EXIT_CODES,
    ]
    for title in GROUPS:
        parts.append(f"## {title}")
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if getattr(command, "rich_help_panel", "") == title:
                parts += describe_command(command, context, name, 3)
    return "\n\n".join(parts) + "\n"


def describe_command(command: Any, parent: Any, name: str, level: int) -> list[str]:
    """Return a command's section: usage, help, and a table of options for each panel."""
    context = typer.Context(command, info_name=name, parent=parent)
    title = f"{parent.info_name} {name}" if level > 3 else name
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [
        f"{'#' * level} {title} {{ #{title.replace(' ', '-')} }}",
        f"    {' '.join(usage.split())}",
        escape(command.help or ""),
    ]
    if hasattr(command, "commands"):
        for sub in command.list_commands(context):
            parts += describe_command(command.get_command(context, sub), context, sub, level + 1)
        return parts
    panels: dict[str, list[Any]] = {}
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            parts.append(f"`{parameter.metavar or parameter.name.upper()}`: {escape(parameter.help or '')}")
        elif not parameter.hidden:
            panels.setdefault(parameter.rich_help_panel or "Options", []).append(parameter)
    for panel, options in panels.items():
        rows = [describe_option(option, context) for option in options]
        parts.append("\n".join([f"| {panel} | default | |", "|---|---|---|", *rows]))
    return parts


def describe_option(option: Any, context: Any) -> str:
    """Return an option's row in the table."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    default = option.show_default if isinstance(option.show_default, str) else option.get_default(context)
    is_empty = default is None or default is False or default in ((), [])
    shown = "" if is_empty or option.name == "help" else default
    shown = "on" if shown is True else ", ".join(map(str, shown)) if isinstance(shown, list | tuple) else shown
    return f"| {names} | {f'`{shown}`' if shown != '' else ''} | {escape(option.help or '')} |"


def escape(text: str) -> str:
    """Return a help text for Markdown."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return re.sub(r"([|<>*_\[\]])", r"\\\1", "\n\n".join(paragraphs).replace(r"\[", "["))
