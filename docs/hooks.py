"""What the site takes from outside ``docs/``: the protocol, pictures of results, and links to files of the checkout.

Pages link to such files by their relative paths, which work wherever the Markdown is read. On the site, a picture that
is linked to is copied, and a link to anything else becomes the path's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"protocol.md": "eval/protocol.md"}
"""Pages of the site that are files of the checkout."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_PICTURES = (".png", ".svg", ".jpg")


def on_files(files, config):
    """Add the checkout's own pages, and the pictures that pages show."""
    for uri, source in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for _, _, target, _ in _LINK.findall(page.content_string):
            outside = _outside(page.src_uri, target)
            if outside and outside.endswith(_PICTURES) and not files.get_file_from_path(outside):
                files.append(File.generated(config, outside, abs_src_path=str(ROOT / outside)))
    return files


def on_page_markdown(markdown, page, config, files: Files):
    """Turn links that leave ``docs/`` into links that the site has."""
    uri = page.file.src_uri

    def replace(match):
        mark, text, target, anchor = match.groups()
        outside = _outside(uri, target)
        if outside is None:
            return match.group(0)
        for own, source in PAGES.items():
            if outside == source:
                return f"[{text}]({posixpath.relpath(own, posixpath.dirname(uri) or '.')}{anchor or ''})"
        if outside.endswith(_PICTURES):
            return f"{mark}[{text}]({posixpath.relpath(outside, posixpath.dirname(uri) or '.')})"
        return text

    return _LINK.sub(replace, markdown)


def _outside(uri: str, target: str) -> str | None:
    """Return the path in the checkout that a page's link leads to, if that lies outside ``docs/``."""
    if "://" in target or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), target))
    return None if path.startswith("docs/") or not (ROOT / path).exists() else path
