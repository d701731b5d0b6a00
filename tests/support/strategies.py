"""What Hypothesis makes for several test files."""

from __future__ import annotations

from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

# Valid, sampled.
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([TraceFlags(1), TraceFlags(3)]),
    trace_state=st.sampled_from([TraceState(), TraceState([("vendor", "x=1")])]),
)
