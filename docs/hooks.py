"""Build the site from pages that also work on GitHub.

The site consists of ``docs/``, of the pages in ``PAGES``, and of one API page per room. A link to any other
file of the repository gets a copy of the file in the site. A link to a folder becomes plain text.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.superfences import fence_code_format

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recbole_siger"
PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("benchmarks/README.md", "results/*.md"),
)
ROOMS = (
    *("quick_start", "config", "registry", "errors", "options", "evaluation", "graph", "data", "model"),
    *("training", "runs", "recommend", "serve", "prepare", "extract", "profiles", "report"),
    *("tuning", "studies"),
    *("reproduce", "testing"),
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", flags=re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API pages to the navigation, and mermaid to the fences."""
    fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    assert config.nav is not None
    config.nav.append({"API": [{room: f"api/{room}.md"} for room in _rooms()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside ``docs/``, the API pages, and the files that pages link to."""
    sources = {file.src_uri: ROOT / "docs" / file.src_uri for file in files.documentation_pages()}
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            place = _site_path(path.relative_to(ROOT).as_posix())
            sources[place] = path
            files.append(File.generated(config, place, content=path.read_text(encoding="utf-8")))
    for room in _rooms():
        files.append(File.generated(config, f"api/{room}.md", content=_api_page(room)))
    for path in sources.values():
        page = path.relative_to(ROOT).as_posix()
        for _, _, target in LINK.findall(path.read_text(encoding="utf-8")):
            file = _repository_path(page, target)
            if file and (ROOT / file).is_file() and files.get_file_from_path(_site_path(file)) is None:
                files.append(File.generated(config, _site_path(file), abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the places that their targets have in the site."""
    here = page.file.src_uri
    source = {_site_path(name): name for name in _outside_pages()}.get(here, f"docs/{here}")

    def point(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        text = LINK.sub(point, text)
        file = _repository_path(source, target)
        if file is None:
            return f"{image}[{text}]({target})"
        if (ROOT / file).is_dir():
            return text
        anchor = target.partition("#")[1] + target.partition("#")[2]
        place = posixpath.relpath(_site_path(file), posixpath.dirname(here) or ".")
        return f"{image}[{text}]({place}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(point, part) for part in parts)


def _outside_pages() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)]


def _repository_path(page: str, target: str) -> str | None:
    """Return the path below the repository that a link of a page names; None for an address or an anchor."""
    name = target.partition("#")[0]
    if not name or "://" in target:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), name))


def _site_path(file: str) -> str:
    """Return the place in the site's sources of a file of the repository.

    Sources are served as text: a ``.py`` or ``.yaml`` file keeps its name below ``files/``.
    """
    if file == "README.md":
        return "index.md"
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    return file if file.endswith((".md", ".png")) else f"files/{file}"


def _rooms() -> list[str]:
    return [room for room in ROOMS if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()]


def _api_page(room: str) -> str:
    """Return the page of a room: the public names of each module that states them in ``__all__``."""
    paths = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else (PACKAGE / room).rglob("*.py")
    lines = [f"# `recbole_siger.{room}`", ""]
    for path in sorted(paths):
        names = _public_names(path)
        if names:
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            members = ", ".join(names)
            lines += [f"::: {module}", "    options:", f"      members: [{members}]", ""]
    return "\n".join(lines)


def _public_names(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []
