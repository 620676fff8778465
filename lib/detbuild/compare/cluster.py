# SPDX-License-Identifier: MIT
"""Past one machine: pairs of files on a Dask cluster, over a file system that every worker sees under the same paths.

Needs the package ``distributed``. A pair whose worker dies is done again by another: its outcome is taken once.
"""

from __future__ import annotations

import tempfile
import threading
from asyncio import CancelledError
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detbuild.compare.change import Change, Facts, Inner
from detbuild.compare.limits import Limits
from detbuild.compare.model import Ending
from detbuild.compare.pool import Outcome, Task, Worker
from detbuild.errors import CompareError

# How often a pair may take its worker with it before it is given up: it may be the pair that kills.
TRIES = 3
_workers = threading.local()


def perform(fields: dict[str, Any]) -> dict[str, Any]:
    """On a worker of the cluster: take one pair apart in a bounded process there."""
    if not hasattr(_workers, "worker"):
        _workers.worker = Worker(Path(tempfile.gettempdir()))
    task = Task(fields["a"], fields["b"], Facts(**fields["facts"]), Limits(**fields["limits"]))
    outcome: Outcome = _workers.worker.run(task)
    return {
        "ending": outcome.ending.value,
        "detail": outcome.detail,
        "seconds": outcome.seconds,
        "changes": [{**change.to_dict(), "before": change.before} for change in outcome.changes],
        "inner": [[list(inner.where), inner.digest_a, inner.digest_b] for inner in outcome.inner],
    }


class ClusterPool:
    """A Pool of `detbuild.compare.pool`, on the cluster of the scheduler at ``address``, such as tcp://host:8786."""

    def __init__(self, address: str, seconds: float = 10.0) -> None:
        """Waits `seconds` for the scheduler. Raises CompareError."""
        try:
            from distributed import Client
        except ImportError as error:
            remedy = "install it with `pip install distributed`"
            raise CompareError("a cluster needs the package distributed", cause=str(error), remedy=remedy) from error
        try:
            self._client = Client(address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise CompareError(
                f"no scheduler answers at {address}", cause=str(error) or type(error).__name__
            ) from error
        self._number = 0

    def submit(self, task: Task) -> Future[Outcome]:
        self._number += 1
        # Not pure: a task of the same arguments in another comparison is another task, whose files may have changed.
        remote = self._client.submit(perform, asdict(task), pure=False, retries=TRIES)
        result: Future[Outcome] = Future()
        remote.add_done_callback(lambda done: result.set_result(_taken(done)))
        return result

    def close(self) -> None:
        self._client.close()


def _taken(remote: Any) -> Outcome:
    # The status alone says nothing: what a worker finished is lost with it until another has done it again, for which
    # result() waits.
    try:
        fields = remote.result()
    except (Exception, CancelledError) as error:
        return Outcome(Ending.FAILED, f"the cluster did not take it apart: {error!r}")
    return Outcome(
        Ending(fields["ending"]),
        fields["detail"],
        fields["seconds"],
        [Change.from_dict(change) for change in fields["changes"]],
        [Inner(tuple(where), a, b) for where, a, b in fields["inner"]],
    )
