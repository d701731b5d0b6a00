"""Words and turns that the project does not use: python -m tools.check_prose

Looks at the documents, and at comments, docstrings and texts of the package. Prints each
place with what to write instead; ends with 1 if there is one.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What is looked for, and what to write.
AVOIDED = {
    r"\btold\b": "name what is recorded, said or asked",
    r"\bstrangers?\b": "third-party, or another program's",
    r"\bas a rule\b": "usually",
    r"\bso many\b": "the number, or 'a number of'",
    r"\b[Ww]hatever\b": "'anything', or name it",
    r"\bstands\b(?! for)": "'is', or 'has'",
    r"\bin the place of\b": "instead of",
    r"(?<!celery\.tasks\.)\bunrun\b": "discarded",
    r"\blean\b": "lazy",
    r"\bhosted\b": "program",
    r"\bforeign\b": "third-party",
    r"\bit is none\b": "say what it is not",
    r"\b(he|she|him|his|her)\b": "'you', 'it', or the noun",
}

DOCUMENTS = ("*.md", "docs/*.md", "deploy/**/*.md", "examples/**/*.md")


def texts(path: Path) -> list[tuple[int, str]]:
    """Return lines with their numbers; of Python comments and strings alone."""
    source = path.read_text()
    if path.suffix != ".py":
        without_code = re.sub(
            r"```.*?```", lambda found: "\n" * found[0].count("\n"), source, flags=re.S
        )
        return list(enumerate(without_code.splitlines(), 1))
    found: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            first = token.start[0]
            found += enumerate(token.string.splitlines(), first)
    return found


def main() -> int:
    """Look, and return the exit status."""
    paths = [path for glob in DOCUMENTS for path in ROOT.glob(glob)]
    paths += (ROOT / "otel_celery_launcher").rglob("*.py")
    count = 0
    for path in sorted(paths):
        for number, line in texts(path):
            for pattern, instead in AVOIDED.items():
                if match := re.search(pattern, line):
                    count += 1
                    place = f"{path.relative_to(ROOT)}:{number}"
                    print(f"{place}: {match[0]!r}; write: {instead}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
