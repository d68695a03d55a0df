"""The parent of a sweep's workers: starts them, replaces dead ones, logs what happens."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import TrialState

from sceneparse.errors import InputError
from sceneparse.runtime.progress import format_seconds
from sceneparse.runtime.signals import StopRequest
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.results import Row, best_of, describe, rows_of, write_tables
from sceneparse.studies.sweep.storage import GRACE_SECONDS, MAX_KILLS, retry
from sceneparse.studies.sweep.study import attempts_of, in_state
from sceneparse.studies.sweep.worker import work

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LINES = 60.0
# If the first trials that end all failed, the sweep itself is at fault.
_MAX_FAILURES_AT_FIRST = 5


def supervise(plan: Plan, place: str, study: Study, workers: int) -> str | None:
    """Let workers run the sweep; return the name of the signal that stopped it early, or None.

    Returns when no trial waits or runs, on other machines either, after a signal, or when the
    first trials all failed. Raises InputError if workers die before they have begun a trial.
    """
    crew = _Crew(plan, place, workers)
    news = _News(plan, rows_of(plan, attempts_of(study)), workers)
    looked, patience = time.time(), 0
    with StopRequest() as stop:
        try:
            while stop.name is None:
                # After a pause of the machine, its own workers first need time for a sign of life.
                paused = time.time() - looked > GRACE_SECONDS / 2
                looked, patience = time.time(), GRACE_SECONDS if paused else patience - 1
                if patience < 0:
                    fail_stale_trials(study)
                crew.clear(study)
                attempts = attempts_of(study)
                news.tell(rows_of(plan, attempts))
                waiting = len(in_state(attempts, TrialState.WAITING))
                running = len(in_state(attempts, TrialState.RUNNING))
                if news.hopeless or not (waiting or running or crew.at_work):
                    break
                crew.hire(waiting)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            crew.end(BaseProcess.terminate)
        finally:
            crew.end(BaseProcess.kill)  # leave none behind, whatever happened
    return stop.name


class _Crew:
    """The worker processes of this command, one to a seat."""

    def __init__(self, plan: Plan, place: str, workers: int) -> None:
        self._work = (plan, place)
        self._seats: list[BaseProcess | None] = [None] * workers
        self._early_deaths = 0

    @property
    def at_work(self) -> list[BaseProcess]:
        """The processes that were alive at the last look."""
        return [process for process in self._seats if process is not None]

    def hire(self, waiting: int) -> None:
        """Fill the empty seats, no more than there are trials waiting."""
        context, seats = multiprocessing.get_context("spawn"), len(self._seats)
        empty = [seat for seat, process in enumerate(self._seats) if process is None]
        for seat in empty[:waiting]:
            process = context.Process(target=work, args=(*self._work, seat, seats))
            process.start()
            self._seats[seat] = process

    def clear(self, study: Study) -> None:
        """Empty the seats of processes that ended; queue the trials of killed ones again."""
        ended = [process for process in self.at_work if not process.is_alive()]
        self._seats = [None if process in ended else process for process in self._seats]
        for process in ended:
            name, code = f"{socket.gethostname()}:{process.pid}", process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            # Looked up only now: what the process finished at the end of its life is finished.
            attempts = attempts_of(study)
            for attempt in in_state(attempts, TrialState.RUNNING, TrialState.FAIL):
                if attempt.user_attrs.get("worker") == name and "error" not in attempt.user_attrs:
                    study.tell(attempt.number, state=TrialState.FAIL, skip_if_finished=True)
                    retry(study, attempt, f"was killed ({how})")
            begun = {a.user_attrs.get("worker") for of in attempts.values() for a in of}
            self._early_deaths += bool(code) and name not in begun
            if self._early_deaths > MAX_KILLS:
                raise InputError(
                    f"workers end before they begin a trial ({how}); see what they printed above, "
                    "try fewer --workers"
                )

    def end(self, end: Callable[[BaseProcess], None]) -> None:
        """End the processes; those that are terminated save their runs and queue them again."""
        for process in self.at_work:
            end(process)
        for process in self.at_work:
            process.join()


class _News:
    """Logs what has happened since the last look: a line for each trial that ended."""

    def __init__(self, plan: Plan, rows: list[Row], workers: int) -> None:
        self._plan, self.hopeless = plan, False
        self._told = self._old = {row.trial for row in rows if row.ended}
        self._start = self._logged = time.monotonic()
        _log.info(
            f"sweep {plan.name}: {len(rows)} trials, {len(self._old)} done; {plan.method}, "
            f"{plan.direction} {plan.metric}; {workers} worker{'s' * (workers > 1)}"
        )

    def tell(self, rows: list[Row]) -> None:
        """Log what is new; now and then, what is running."""
        ended = {row.trial: row for row in rows if row.ended and row.trial not in self._old}
        states = [row.state for row in ended.values()]
        self.hopeless = states.count("failed") == len(states) >= _MAX_FAILURES_AT_FIRST
        new = [row for trial, row in ended.items() if trial not in self._told]
        lines = [describe(self._plan, row) for row in new]
        if not new and time.monotonic() - self._logged > _SECONDS_BETWEEN_LINES:
            running = [f"{r.trial} ({r.epochs} epochs)" for r in rows if r.state == "running"]
            lines = [f"running: {', '.join(running) or 'none'}"]
        if new:
            self._told = self._old | ended.keys()
            write_tables(self._plan, rows)
        if lines:
            self._logged = time.monotonic()
            _log.info("%s  %s", "\n".join(lines), self._position(rows))

    def _position(self, rows: list[Row]) -> str:
        words, best = [f"{len(self._told)}/{len(rows)}"], best_of(self._plan, rows)
        if best is not None:
            words.insert(0, f"(best {best.value:.4f}, trial {best.trial})")
        now, left = len(self._told - self._old), len(rows) - len(self._told)
        if now and left:
            words.append(f"{format_seconds((self._logged - self._start) / now * left)} left")
        return "  ".join(words)
