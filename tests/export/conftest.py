"""A browser, see `browser`."""

from browser import browser, page

__all__ = ["browser", "page"]
