"""A hook of mkdocs: the site has the paths of the repository, and a page of every verb's help.

README.md, the recipes' pages and the model card keep their paths, and docs/ keeps its folder, so that a
relative link means the same on the site and in the repository.
"""

from __future__ import annotations

from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from audiovq.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "audiovq/assets/MODEL_CARD.md",
    "data/README.md",
    "examples/README.md",
    *sorted(str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "recipes").rglob("README.md")),
)
LINKED = (
    *("LICENSE", "CITATION.cff", "recipes/default/files.tsv.gz"),
    *("examples/language_model.py", "examples/lhotse_codes.py", "examples/run_onnx.py"),
)
"""Files that pages link to."""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> list[tuple[str, str]]:
    """Full name and help of a command and of all below it."""
    context = click.Context(command, info_name=name, parent=parent, max_content_width=90)
    found = [(context.command_path, command.get_help(context))]
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found += commands(command.get_command(context, below), below, context)
    return found


def command_line() -> str:
    parts = [f"## {name}\n\n```\n{text}\n```\n" for name, text in commands(cli, "audiovq")]
    return "\n".join(["# Command line\n", *parts])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    documents = [file for file in files if (file.abs_src_path or "").startswith(config.docs_dir)]
    theme = [file for file in files if file not in documents]
    moved = [
        File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path) for file in documents
    ]
    added = [File.generated(config, name, abs_src_path=str(ROOT / name)) for name in (*PAGES, *LINKED)]
    help_page = File.generated(config, "docs/command-line.md", content=command_line())
    return Files([*theme, *moved, *added, help_page])
