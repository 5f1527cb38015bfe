"""The URL of a page, such as an application's `/health`, from a project's settings."""

from __future__ import annotations

from urllib.parse import urlsplit

from pgsplit.base.errors import NotReady
from pgsplit.project.settings import Settings


def page_url(settings: Settings, variable: str) -> str:
    """Give the URL of a page; nothing if it isn't set.

    Args:
        settings: the project's settings.
        variable: the variable that names the page.

    Raises:
        NotReady: it is no URL of a page, or has a login, which settings are no place for.
    """
    given = settings.get(variable, "")
    try:
        parts = urlsplit(given)
        is_page = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_page = is_page and parts.username is None and parts.port != 0
    except ValueError:
        is_page = False
    if given and not is_page:
        raise NotReady(  # the value may hold a password, so it is not repeated
            f"{variable} is no URL of a page: one begins with http:// or https://, and has no"
            " login.",
            where=settings.where(variable),
            hint=f"export {variable}=http://HOST:PORT/health",
        )
    return given
