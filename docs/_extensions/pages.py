"""Check that every internal link of the built pages, to a file or to a place in a page, leads somewhere."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


class Page(HTMLParser):
    """Links and targets of one page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.targets = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Collect identifiers, and what elements refer to."""
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.targets.add(value)
            elif name in ("href", "src") and value and tag != "base":
                self.links.add(value)


def setup(app):
    """Check links after each build of HTML."""
    app.connect("build-finished", check_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def check_links(app, error):
    """Warn of each broken link; with ``-W`` the build fails."""
    if error is None and app.builder.format == "html":
        for page, link in broken_links(Path(app.outdir)):
            LOGGER.warning("%s: nothing is at %s", page, link, type="pages")


def broken_links(folder):
    """Return (page, link) of each internal link without a target, for pages below a folder."""
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.parts  # templates of the theme
    }
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.is_file()
            if found and parts.fragment and target in pages:
                found = unquote(parts.fragment) in pages[target].targets
            if not found:
                broken.append((path.relative_to(folder).as_posix(), link))
    return broken
