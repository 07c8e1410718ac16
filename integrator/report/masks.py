"""Credentials are taken out of texts before anybody else reads them.

Three kinds are known: the values of this process's own credentials (the database's password, environment variables that are
called like one), what stands where a credential belongs (``password=``, ``Authorization:``, ``--token``, a URL with a password),
and tokens by their form. In doubt more is masked than needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from integrator.settings import without_password

MASK: Final = "***"
#: A shorter value would turn up in ordinary words.
_SHORTEST: Final = 8

_WORD: Final = (
    r"(?:pass(?:word|wd|phrase)|secret|token|authori[sz]ation|credentials?|cookie"
    r"|api[_-]?key|access[_-]?key|private[_-]?key)"
)
_KEY: Final = re.compile(_WORD, re.IGNORECASE)
#: Names of variables whose value is a credential, unless it says where one is kept.
_VARIABLE: Final = re.compile(_WORD + r"(?!.*_(?:FILE|PATH|DIR|FOLDER|NAME|URL)$)", re.IGNORECASE)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>]{1,4000}", re.IGNORECASE)
_VALUE: Final = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'][^\s"'\\]+|(?:(?:bearer|basic|digest|token)\s+)?[^\s,;&"']+)"""
_ASSIGNED: Final = re.compile(rf"""({_WORD}[\w.-]{{0,40}}\\?["']?\s{{0,4}}[:=]\s{{0,4}}\\?){_VALUE}""", re.IGNORECASE)
_OPTION: Final = re.compile(rf"((?<![\w./-])--?[\w-]{{0,40}}{_WORD}[\w-]{{0,40}}\s{{1,4}})\S+", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_FORMS: Final = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"  # JSON web token
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abposr]-|AKIA)[\w-]{10,}"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


class Mask:
    """Takes credentials out of texts and JSON values."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {form for secret in secrets for form in (secret, quote(secret, safe=""), unquote(secret))}
        # The longest first: one may be a part of another.
        self._secrets = sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)

    @classmethod
    def of_process(cls, database: str = "", environment: Mapping[str, str] = os.environ) -> Mask:
        """With the values of credentials that this process knows; `database` is the database's URL."""
        own = [value for name, value in environment.items() if _VARIABLE.search(name) and not os.path.lexists(value)]
        urls = [database, *(value for value in environment.values() if "://" in value)]
        return cls([*own, *(_password(url) for url in urls)])

    def known(self, text: str) -> str:
        """The text without the values that are known to be credentials."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def text(self, text: str) -> str:
        """The text without anything that looks like a credential."""
        text = self.known(text)
        text = _FORMS.sub(MASK, text)
        text = _URL.sub(lambda found: without_password(found[0]), text)
        text = _ASSIGNED.sub(rf"\1{MASK}", text)
        text = _OPTION.sub(rf"\1{MASK}", text)
        return _BEARER.sub(rf"\1{MASK}", text)

    def value(self, value: Any) -> Any:
        """A JSON value without them; whatever is kept under a name like `token` is one."""
        if isinstance(value, dict):
            return {self.text(str(key)): MASK if _KEY.search(str(key)) else self.value(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value


def _password(url: str) -> str:
    """The password of a URL, "" if it has none; it ends at the last @, as a password may hold any character."""
    authority = url.partition("://")[2].rpartition("@")[0]
    return authority.partition(":")[2]
