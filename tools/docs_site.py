"""A hook of mkdocs: links that leave docs/ lead to copies of those files in the site.

So the site is whole without the repository, and what it shows is of the same release.
A folder becomes a page that lists its files.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
COPIES = "repository"
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")


@cache
def tracked() -> tuple[str, ...]:
    """Return the paths of the repository's files; of a source distribution, its own."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return tuple(listed.stdout.splitlines())
    return tuple(
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()
    )


def target_of(page: str, link: str) -> str:
    """Return what a link means: a path from the root of the repository.

    Args:
        page: The page's path below docs/ (a copy's begins with ``repository/``).
        link: As it is in the page, without its anchor.
    """
    is_copy = page.startswith(f"{COPIES}/")
    folder = posixpath.dirname(page.removeprefix(f"{COPIES}/") if is_copy else page)
    base = folder if is_copy else posixpath.join("docs", folder)
    return posixpath.normpath(posixpath.join(base, link))


def page_of(target: str) -> str:
    """Return where the site has a file or a folder of the repository, below docs/."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if (ROOT / target).is_dir():
        return f"{COPIES}/{target}/README.md"
    return f"{COPIES}/{target}"


def rewrite(text: str, page: str) -> str:
    """Return a page with its links as the site has them."""

    def site_link(found: re.Match[str]) -> str:
        target = page_of(target_of(page, found[1]))
        link = posixpath.relpath(target, posixpath.dirname(page) or ".")
        return f"]({link}{found[2] or ''})"

    return LINK.sub(site_link, text)


def listing(folder: str) -> str:
    """Return a page for a folder without a README."""
    inside = [path for path in tracked() if path.startswith(f"{folder}/")]
    names = (path.removeprefix(f"{folder}/") for path in inside)
    return f"# {folder}\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"


def _add(files: Files, config: MkDocsConfig, target: str) -> None:
    """Add the copy of a file or folder, and of what that links to."""
    page = page_of(target)
    if target.startswith("docs/") or files.get_file_from_path(page) is not None:
        return
    path = ROOT / target
    if path.is_dir():
        readme = path / "README.md"
        text = readme.read_text() if readme.is_file() else listing(target)
        files.append(File.generated(config, page, content=text))
    elif path.is_file():
        text = path.read_text()
        files.append(File.generated(config, page, content=text))
    else:
        return  # mkdocs reports the link
    if page.endswith(".md"):
        for found in LINK.finditer(text):
            _add(files, config, target_of(page, found[1]))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a copy of each file outside of docs/ that a page links to."""
    for file in files.documentation_pages():
        for found in LINK.finditer(file.content_string):
            _add(files, config, target_of(file.src_uri, found[1]))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to the copies."""
    return rewrite(markdown, page.file.src_uri)
