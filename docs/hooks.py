"""Let pages of the site link to files beside docs/, by the same links that work in the repository.

MkDocs calls these functions by their names (`hooks` in mkdocs.yml). A link that leaves docs/, such
as `../results/speed.json`, is rewritten to the copy of that file in the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Copied into the site; a Markdown file becomes a page.
COPIED = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "SECURITY.md",
    "examples/*.ipynb",
    "results/*.[jps]*",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to."""
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between docs/ and the rest of the repository."""
    if (ROOT / page.file.src_uri).exists():  # a page from outside docs/
        return markdown.replace("](docs/", "](")
    up = "../" * (page.file.src_uri.count("/") + 1)  # from the page to the repository's root
    return re.sub(rf"\]\({re.escape(up)}(?!\.\.)", f"]({up[3:]}", markdown)
