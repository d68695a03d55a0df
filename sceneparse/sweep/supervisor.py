"""The parent of a sweep's workers: starts them, replaces dead ones, tells what happens."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sceneparse.errors import InputError
from sceneparse.runtime.progress import format_seconds
from sceneparse.runtime.signals import StopRequest
from sceneparse.sweep.plan import Plan
from sceneparse.sweep.results import Row, best_of, row_in_words, rows_of, write_tables
from sceneparse.sweep.study import MOST_KILLS, Attempts, Watch, attempts_of, in_state, put_back
from sceneparse.sweep.worker import Seat, work, worker_name

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LINES = 60.0
# Where the first ones that end all fail, the sweep itself is at fault.
_MOST_FAILURES_AT_FIRST = 5


def supervise(plan: Plan, storage: str, study: Study, workers: int) -> str | None:
    """Let workers carry out the sweep; return the name of a signal that ended it before its end.

    Comes back when no trial waits or runs, on other machines either, when a signal came, or when
    the first trials all failed. Raises InputError where workers die without having begun a trial.
    """
    crew, watch = _Crew(plan, storage, workers), Watch()
    with StopRequest() as stop:
        try:
            news = _News(plan, attempts_of(study), workers)
            while stop.name is None:
                attempts = attempts_of(study)
                news.tell(attempts)
                waiting = len(in_state(attempts, TrialState.WAITING))
                running = in_state(attempts, TrialState.RUNNING)
                crew.bury(study)
                for attempt in watch.silent(running):
                    _run_again(study, attempt, "gave no sign of life")
                if news.hopeless or not (waiting or running or crew.at_work):
                    break
                crew.hire(waiting)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            crew.dismiss(study)
        finally:
            crew.kill()
    return stop.name


class _Crew:
    """The worker processes of this command, one to a seat."""

    def __init__(self, plan: Plan, storage: str, workers: int) -> None:
        self._plan, self._storage = plan, storage
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._processes: list[BaseProcess | None] = [None] * workers
        self._idle_deaths = 0

    @property
    def at_work(self) -> bool:
        """Whether a process is there still."""
        return any(process is not None for process in self._processes)

    def hire(self, waiting: int) -> None:
        """Fill the empty seats, no more than there are trials waiting."""
        places = len(self._processes)
        empty = [place for place, process in enumerate(self._processes) if process is None]
        for place in empty[:waiting]:
            arguments = (self._plan, self._storage, Seat(place, places, self._stop))
            process = self._context.Process(target=work, args=arguments)
            process.start()
            self._processes[place] = process

    def bury(self, study: Study) -> None:
        """Empty the seats of processes that ended; have the trials of killed ones run again."""
        for place, process in enumerate(self._processes):
            if process is None or process.is_alive():
                continue
            self._processes[place] = None
            name, code = worker_name(process.pid or 0), process.exitcode or 0
            # Looked up only now: what the process finished at the end of its life is finished.
            running = in_state(attempts_of(study), TrialState.RUNNING)
            left = [a for a in running if a.user_attrs.get("worker") == name]
            for attempt in left:
                _run_again(study, attempt, f"was killed ({_how(code)})")
            self._idle_deaths += bool(code and not left)
            if self._idle_deaths > MOST_KILLS:
                raise InputError(
                    f"workers end before they begin a trial ({_how(code)}); see what they said "
                    "above, try fewer --workers"
                )

    def dismiss(self, study: Study) -> None:
        """Ask the processes to stop, which save their runs; have those trials wait again."""
        self._stop.set()
        present = [process for process in self._processes if process is not None]
        for process in present:
            process.terminate()
        for process in present:
            process.join()
        names = {worker_name(process.pid or 0) for process in present}
        for attempt in in_state(attempts_of(study), TrialState.RUNNING):
            if attempt.user_attrs.get("worker") in names:
                put_back(study, attempt, killed=False)

    def kill(self) -> None:
        """Leave no process behind, whatever happened."""
        for process in self._processes:
            if process is not None:
                process.kill()
                process.join()


def _run_again(study: Study, attempt: FrozenTrial, what: str) -> None:
    trial, kills = attempt.user_attrs["trial"], attempt.user_attrs["kills"]
    then = "it is run again" if kills < MOST_KILLS else "it is given up"
    _say(f"trial {trial}: its worker {attempt.user_attrs.get('worker', '')} {what}; {then}")
    put_back(study, attempt, killed=True)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _News:
    """Says what has happened since the last look: a line for each trial that ended."""

    def __init__(self, plan: Plan, attempts: Attempts, workers: int) -> None:
        self._plan = plan
        rows = rows_of(plan, attempts)
        self._known = {row.trial for row in rows if row.ended}
        self._began_with = len(self._known)
        self._failures, self._worth = 0, 0
        self._start = self._said = time.monotonic()
        _say(
            f"sweep {plan.name}: {len(rows)} trials, {self._began_with} done; {plan.method}, "
            f"{plan.direction} {plan.metric}; {workers} worker{'s' * (workers > 1)}"
        )

    @property
    def hopeless(self) -> bool:
        """Whether the first trials that ended all failed."""
        return not self._worth and self._failures >= _MOST_FAILURES_AT_FIRST

    def tell(self, attempts: Attempts) -> None:
        """Say what is new in the study; now and then, what is going on."""
        rows = rows_of(self._plan, attempts)
        new = [row for row in rows if row.ended and row.trial not in self._known]
        for row in new:
            self._known.add(row.trial)
            self._failures += row.state == "failed"
            self._worth += row.state != "failed"
            self._line(row_in_words(self._plan, row), rows)
        if new:
            write_tables(self._plan, rows)
        elif time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            running = [f"{r.trial} ({r.epochs} epochs)" for r in rows if r.state == "running"]
            self._line(f"running: {', '.join(running) or 'none'}", rows)

    def _line(self, text: str, rows: Sequence[Row]) -> None:
        self._said = time.monotonic()
        best = best_of(self._plan, rows)
        words = [text] if best is None else [text, f"(best {best.value:.4f}, trial {best.trial})"]
        words.append(f"{len(self._known)}/{len(rows)}")
        now, left = len(self._known) - self._began_with, len(rows) - len(self._known)
        if now and left:
            words.append(f"{format_seconds((self._said - self._start) / now * left)} left")
        _say("  ".join(words))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
