"""Where a method comes from, as data that pages, tables and tests read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ArgumentError

_ARXIV = re.compile(r"\d{2}(0[1-9]|1[0-2])\.\d{4,5}(v\d+)?")


@dataclass(frozen=True)
class Source:
    """The publication or program that a method follows.

    Parameters
    ----------
    title : str
        Name under which the work is known, or ``"this project"``.
    arxiv : str, optional
        Identifier on arXiv, with the version where versions differ: ``"2412.01818v1"``.
    venue : str, optional
        Where it was published, with the year: ``"ICCV 2025"``.
    section, algorithm : str, optional
        Number of the section or algorithm in the paper.
    code : str, optional
        Address of a public repository, whose behaviour the method was compared with.
    function : str, optional
        The function or class there, or a description of the place.
    note : str, optional
        How the method relates to the work: which part it covers, or why there is no paper.

    Raises
    ------
    ArgumentError
        If the identifier or the address has the wrong form, or if there is neither an identifier
        nor a note that says why.
    """

    title: str
    arxiv: str = ""
    venue: str = ""
    section: str = ""
    algorithm: str = ""
    code: str = ""
    function: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.arxiv and not _ARXIV.fullmatch(self.arxiv):
            raise ArgumentError.of("arxiv", self.arxiv, "an identifier such as '2409.10994'")
        if self.code and not self.code.startswith("https://"):
            raise ArgumentError.of("code", self.code, "an address that starts with https://")
        if not self.arxiv and not self.note:
            raise ArgumentError.of("note", self.note, "the reason why there is no arXiv identifier")

    @property
    def url(self) -> str:
        """Address of the paper; empty if there is none."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def __str__(self) -> str:
        """Return one line, such as ``TRIM (COLING 2025, arXiv 2409.10994)``."""
        published = ", ".join(filter(None, [self.venue, self.arxiv and f"arXiv {self.arxiv}"]))
        return f"{self.title} ({published})" if published else self.title

    def markdown(self) -> str:
        """Return one line of Markdown with links to the paper and the program."""
        title = f"[{self.title}]({self.url})" if self.url else self.title
        parts = [f"{title} ({self.venue})" if self.venue else title]
        if self.section:
            parts.append(f"section {self.section}")
        if self.algorithm:
            parts.append(f"algorithm {self.algorithm}")
        if self.code:
            parts.append(f"[code]({self.code})")
        if self.function:
            parts.append(f"`{self.function}`")
        line = ", ".join(parts)
        return f"{line}; {self.note}" if self.note else line
