"""What the documents say is there: commands, options, variables, files, queries.

``make docs-site`` follows their links. Each command line is parsed by the command itself,
without running it; each block of code is parsed by what it is for.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from celery.bin.celery import celery
from dotenv import dotenv_values
from packaging.requirements import Requirement

import otel_celery_launcher
from otel_celery_launcher.bootstrap.command import bootstrap
from otel_celery_launcher.cli import OWN_COMMANDS
from otel_celery_launcher.demo.command import demo
from otel_celery_launcher.doctor.command import doctor
from otel_celery_launcher.fleet.command import fleet
from otel_celery_launcher.inject.command import inject
from otel_celery_launcher.launch.exec_command import execute
from otel_celery_launcher.launch.healthcheck import healthcheck
from otel_celery_launcher.settings.standard_variables import VARIABLES
from otel_celery_launcher.spool.command import spool
from otel_celery_launcher.tail.command import tail
from otel_celery_launcher.tail.top import top
from tests.deploy.test_deploy import DEPLOY, ROOT, said_by, unknown_in
from tests.support.documented import blocks

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef,import-not-found]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *DEPLOY.rglob("*.md"),
    ]
)
TEXTS = sorted(
    {
        *DOCUMENTS,
        ROOT / "Dockerfile",
        *(path for path in DEPLOY.rglob("*") if path.is_file()),
    }
    - {ROOT / "docs" / "compatibility.md"}
)
# Read by others than the launcher: the SDK, an instrumentation, the collectors.
OTHERS = (
    "OTEL_INSTRUMENTATION_",
    "OTEL_PYTHON_",
    "OTEL_GATEWAY_ENDPOINT",
    "OTEL_QUEUE_DIRECTORY",
    "OTEL_SAMPLER_HOST",
    "OTEL_CONFIG_FILE",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_CELERY_EXPROT",  # the misspelling that docs/doctor.md shows
)
OWN = {
    each.name: each
    for each in (
        bootstrap, demo, doctor, execute, fleet, healthcheck, inject, spool, tail, top,
    )
}  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


PARSE_BY_THEMSELVES = {"multi", "control", "inspect", "flower", "report"}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_variable_exists(path: Path) -> None:
    known = {row.name for row in VARIABLES}
    for name in set(re.findall(r"\bOTEL_[A-Z][A-Z_]*[A-Z]\b", path.read_text())):
        assert name in known or name.startswith(OTHERS), f"{name} is read by nobody"


# Commands.


def command_lines(text: str) -> Iterator[str]:
    """Yield what a text would have you type: lines of blocks, and `code` in sentences."""
    for language, block in blocks(text):
        whole = re.sub(r"\\\n\s*", "", block)
        if language == "console":  # what is not after the prompt is an answer
            yield from re.findall(r"^\$ (.*)", whole, re.MULTILINE)
        elif language in {"sh", "text", "diff"}:
            yield from whole.splitlines()
    without_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", without_blocks.replace("\n", " ")):
        if "as otel-celery does" not in code:  # a line that it writes
            yield code
    yield from re.findall(r"^ {4}(\S.*)", without_blocks, re.MULTILINE)


def calls(line: str, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of a program in a command line."""
    line = re.sub(r"\s#\s.*| [|&>].*|;.*", "", line)
    if found := re.search(rf"(?:^|\s|(?<!helm)/){program}(?= |$)(.*)", line):
        is_cut = "…" in found[1]
        try:
            words = shlex.split(found[1].partition("…")[0])
        except ValueError:  # a sentence with an apostrophe
            return
        yield words[:-1] if is_cut and words and words[-1].startswith("-") else words


def refusal(words: list[str]) -> str:
    """Return why otel-celery would refuse its arguments, or nothing."""
    while words[:1] == ["--env-file"]:
        words = words[2:]
    try:
        context = click.Context(celery, info_name="otel-celery")
        _, rest, _ = celery.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return str(error.format_message())
    if not rest:
        return ""
    name, *arguments = rest
    if name in OWN_COMMANDS:
        command = OWN[name]
    elif name in PARSE_BY_THEMSELVES:
        return ""
    elif name in celery.commands:
        command = celery.commands[name]
    else:
        return f"{name} is no command"
    inner = click.Context(command, info_name=name)
    try:
        command.make_parser(inner).parse_args(arguments)
    except click.UsageError as error:
        return str(error.format_message())
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_is_understood(path: Path) -> None:
    refused = {}
    for line in command_lines(path.read_text()):
        for words in calls(line, "otel-celery"):
            if reason := refusal(words):
                refused[line] = reason
    assert refused == {}


def test_a_command_that_is_not_there_is_found() -> None:
    assert refusal(["-A", "proj", "wrker"])
    assert refusal(["tail", "--wbe"])
    assert refusal(["-A", "proj", "worker", "--loglvl", "INFO"])
    assert not refusal(["-A", "proj", "worker", "-c", "2", "-l", "INFO"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_target_of_make_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for line in command_lines(path.read_text()):
        for words in calls(line, "make"):
            for word in words:
                assert "=" in word or word in targets, line


@cache
def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_extra_exists(path: Path) -> None:
    for found in re.findall(r"otel-celery-launcher\[([a-z,]+)\]", path.read_text()):
        assert set(found.split(",")) <= extras()


# Blocks of code.


def check_yaml(block: str) -> None:
    """A collector's pipelines name what it has."""
    for document in yaml.safe_load_all(block):
        if "service" not in document:
            continue
        for pipeline in document["service"]["pipelines"].values():
            for kind in ("receivers", "exporters"):
                assert set(pipeline[kind]) <= set(document[kind])
        assert set(document["service"].get("extensions", [])) <= set(
            document.get("extensions", {})
        )


def check_traceql(block: str) -> None:
    """Attributes are those of our spans; numbers compared with floats are floats."""
    source = "\n".join(
        path.read_text()
        for folder in ("tasks", "compat", "ipc")
        for path in (Path(otel_celery_launcher.__file__).parent / folder).glob("*.py")
    )
    names = re.findall(r"\bspan\.([a-z._]+)", block)
    assert [name for name in names if f'"{name}"' not in source] == []
    # Tempo looks for an integer among integers alone, and waits are floats.
    assert not re.search(r"celery\.wait\.\w+ [<>=]+ \d+(?!\.)\b", block)


def check_env(block: str) -> None:
    found = dotenv_values(stream=StringIO(block), interpolate=False)
    assert [*found] == re.findall(r"^([A-Z_]+)=", block, re.MULTILINE)
    assert all(found.values())


def check_diff(block: str) -> None:
    for command in re.findall(r"^[-+]CMD (.*)", block, re.MULTILINE):
        assert all(isinstance(word, str) for word in json.loads(command))


def check_promql(block: str) -> None:
    assert unknown_in(block) == (set(), True)


def check_shell(block: str) -> None:
    subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def is_for_people(_: str) -> None:
    """What programs say; commands are looked at above."""


READERS: dict[str, Callable[[str], object]] = {
    "console": is_for_people,
    "diff": check_diff,
    "env": check_env,
    "json": json.loads,
    "promql": check_promql,
    "python": ast.parse,
    "sh": check_shell,
    "text": is_for_people,
    "toml": tomllib.loads,
    "traceql": check_traceql,
    "yaml": check_yaml,
}

CODE = [
    pytest.param(language, block, id=f"{name_of(path)}-{number}-{language}")
    for path in DOCUMENTS
    for number, (language, block) in enumerate(blocks(path.read_text()))
]


@pytest.mark.parametrize(("language", "block"), CODE)
def test_every_block_of_code_can_be_read(language: str, block: str) -> None:
    READERS[language](block)


# Pages.


def test_every_page_is_on_the_map() -> None:
    text = (ROOT / "docs" / "README.md").read_text()
    site = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        if path.name != "README.md":
            assert f"({path.name})" in text, path.name
            assert f": {path.name}" in site, path.name


def test_each_file_that_a_document_names_is_there() -> None:
    """Links are followed by `make docs-site`; these are names in sentences."""
    missing = set()
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":
            continue
        for name in re.findall(
            r"`((?:tests|deploy|tools|docs|bench|examples)/[\w./@-]+)`",
            path.read_text(),
        ):
            if not (ROOT / name).exists() and not list(ROOT.glob(f"{name}*")):
                missing.add((path.name, name))
    assert missing == set()


def test_the_readme_is_one_screen_and_a_picture() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 90
    assert any(line.startswith("![") for line in lines)


def test_extras_and_groups_are_apart() -> None:
    """Who installs the package is offered nothing that only this project needs."""
    assert extras() == {"auto", "eventlet", "gevent", "http", "prometheus", "redis"}
    status, said = said_by(
        "git", "-C", ROOT, "grep", "-lE", r"launcher\[(dev|test|web)"
    )
    assert (status, said) == (1, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for group in project["dependency-groups"].values():
        for each in group:
            assert isinstance(each, dict) or Requirement(each).name
