"""The tracer's loop, without a tracee."""

from __future__ import annotations

import signal

from results import EPOCH

from detbuild.engine.base import Terms
from detbuild.engine.tracer import Tracer


def test_what_somebody_else_waited_for_is_handled_before_the_next_wait() -> None:
    """A signal that comes during an errand would be lost, and its thread stopped for ever."""
    tracer = Tracer(Terms(EPOCH, "strict"))
    stops = [(10007, signal.SIGUSR1 << 8 | 0x7F), (10009, 0)]
    for stop in stops:
        tracer.postpone(*stop)
    assert [tracer._next() for _ in stops] == stops
