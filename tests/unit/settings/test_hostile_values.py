"""No value of any variable is more than a line: nothing raises, no secret is shown."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_celery_launcher.command_line import program_command_line, read_command_line
from otel_celery_launcher.settings.advice import printable_endpoint
from otel_celery_launcher.settings.corrections import correct_environment
from otel_celery_launcher.settings.settings import Settings
from otel_celery_launcher.settings.standard_variables import VARIABLES
from otel_celery_launcher.telemetry.application_providers import CollectorAddress
from tests.support.hostile_values import COMMON, ENDPOINTS, OF

NAMES = [row.name for row in VARIABLES]
SECRETS = {row.name for row in VARIABLES if row.secret}

words = st.sampled_from(
    [*COMMON, *ENDPOINTS, *(value for values in OF.values() for value in values)]
)
# An environment has no NUL; bytes that are not UTF-8 are lone surrogates in it.
texts = st.text(
    st.one_of(
        st.characters(min_codepoint=1, exclude_categories=["Cs"]),
        st.sampled_from("\udc80\udcff:/[]{}%,=.@-_019"),
    ),
    max_size=40,
)
values = st.one_of(words, texts, st.builds("{}{}{}".format, texts, words, texts))
environs = st.dictionaries(st.sampled_from(NAMES), values, max_size=20)
starts = st.sampled_from(["worker", "worker -P gevent", "beat", "call x", "exec"])


@given(environs, starts)
@settings(max_examples=600, deadline=None)
def test_any_values_are_lines_and_settings(environ: dict[str, str], start: str) -> None:
    given_ = dict(environ)
    lines = list(map(str, correct_environment(environ)))
    for line in lines:
        assert line.isprintable(), line
        assert len(line) < 2000
        name = line.partition(" ")[0]
        assert name in NAMES
        if name in SECRETS:
            assert f"{name} is set (value not shown)" in line
    assert correct_environment(dict(environ)) == [], "what is used instead is good"
    command_line = (
        program_command_line("web", "shop")
        if start == "exec"
        else read_command_line(["-A", "shop", *start.split()], environ)
    )
    read = Settings.from_environ(environ, command_line)
    read.service_name.encode()
    assert all(note.text.isprintable() for note in read.notes), given_
    CollectorAddress.read(read.traces.endpoint, {})
    assert printable_endpoint(read.traces.endpoint).isprintable()


@given(values)
@settings(max_examples=300, deadline=None)
def test_any_endpoint_can_be_shown(value: str) -> None:
    """Before it is known whether it is a good one."""
    assert printable_endpoint(value).isprintable()
