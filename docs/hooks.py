"""Hooks of MkDocs: the pages of the reference, and a look at what was built.

The reference is written from the code at each build, which fails where something has no
description. The built site may ask no other host for anything.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from generate.markdown import Descriptions
from generate.pages import PAGES

_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed|object|link)\b[^>]*?"
    r"\b(?:src|href|data|srcset)=[\"']?((?:https?:)?//[^\s\"'>]+)[^>]*>",
    re.IGNORECASE,
)
_NOT_FETCHED = re.compile(r"rel=[\"']?(?:canonical|next|prev|alternate)\b", re.IGNORECASE)
_CSS = re.compile(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\s\"')]+)", re.IGNORECASE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the reference.

    Raises:
        PluginError: names everything that the code does not describe.
    """
    descriptions = Descriptions()
    for path, write in PAGES.items():
        files.append(File.generated(config, path, content=write(descriptions)))
    if descriptions.missing:
        raise PluginError("These have no description:\n  " + "\n  ".join(descriptions.missing))
    return files


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse a site that would ask another host for a script, a style, a font or a picture.

    Raises:
        PluginError: names each file with what it asks for.
    """
    asked = [
        f"{path.relative_to(config.site_dir)}: {url}"
        for path in sorted(Path(config.site_dir).rglob("*"))
        for url in _asked(path)
    ]
    if asked:
        raise PluginError("The site asks other hosts:\n  " + "\n  ".join(asked))


def _asked(path: Path) -> list[str]:
    if path.suffix == ".html":
        text = path.read_text("utf-8")
        tags = [found for found in _FETCHED.finditer(text) if not _NOT_FETCHED.search(found[0])]
        styles = _CSS.findall(text) if "<style" in text else []
        # The theme fetches what draws them from elsewhere.
        diagrams = ["a Mermaid diagram"] if 'class="mermaid"' in text else []
        return [found[1] for found in tags] + styles + diagrams
    if path.suffix == ".css":
        return list(_CSS.findall(path.read_text("utf-8")))
    return []
