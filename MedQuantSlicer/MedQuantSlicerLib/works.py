"""What runs: one piece of long work at a time, with its progress, its end, its failure, and the wish to stop it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.actions import STATE_OF, actions_of
from MedQuantSlicerLib.engine_process import EngineProcess
from MedQuantSlicerLib.facts import Facts, Part, Running
from MedQuantSlicerLib.host import Host
from MedQuantSlicerLib.scan_files import ScanFiles
from MedQuantSlicerLib.state import Problem, State

Told = dict[str, Any]
Then = Callable[[], None]
LOG = "panel.log"
_log = logging.getLogger("medquant.panel")


class Works:
    """Runs requests in a state of their own. `update` shows what has changed."""

    def __init__(
        self, facts: Facts, engine: EngineProcess, host: Host, update: Then, clock: Callable[[], float]
    ) -> None:
        self.facts, self.engine, self.host, self.update = facts, engine, host, update
        self.files = ScanFiles(engine, host)
        self.installed: Then = lambda: None
        """Called once the engine can be asked."""
        self._clock = clock
        self._request: Any = None
        self._work: object = None
        """What runs; what was given up meanwhile is not listened to any more."""
        self._stopped: Then | None = None
        """While the scan is being handed over: tells that this was stopped."""
        self._tidy: Then = lambda: None
        """Takes away what partial results left, once."""

    def can(self, verb: str) -> bool:
        """Whether a verb is possible now."""
        return actions_of(self.facts)[verb].enabled

    def run(
        self,
        verb: str,
        section: str,
        method: str,
        params: Told,
        on_result: Callable[[Told], None],
        **how: Any,
    ) -> None:
        """Ask the engine for what a button stands for, if that is possible now; `how` goes to `step`."""
        if self.can(verb):
            state = how.pop("state", STATE_OF.get(verb, State.COMPARING))
            step = partial(self.step, state, section, method, params, on_result, **how)
            self.begin(section, step, of_scan=how.get("with_volume", False))

    def begin(self, section: str, then: Then, *, of_scan: bool = True) -> None:
        """Do something that needs the engine, after installing it where that is wished; `of_scan`: not if another scan
        is chosen by then."""
        self.dismiss()
        if of_scan:
            then = self._if_still(self.facts.volume_key, section, then)
        missing = self.host.missing()
        if missing is None:
            self._guarded(section, then)
        elif self.host.confirm(missing.text):
            self._install(section, then)
        else:
            self.fail(section, {"kind": "user", "message": m.NOT_INSTALLED})

    def step(
        self,
        state: State,
        section: str,
        method: str,
        params: Told,
        on_result: Callable[[Told], None],
        *,
        with_volume: bool = False,
        with_reference: bool = False,
        with_masks: Sequence[str] = (),
        on_partial: Callable[[Told], None] | None = None,
        on_failed: Then = lambda: None,
        part: Part | None = None,
        late: Callable[[Told], None] | None = None,
    ) -> None:
        """One request, with what it needs of the scene handed over before. `on_result` may go on with the next step; it
        is not called after a cancel, whatever the engine answers, but `late` is: for work that leaves something on this
        machine which is of no scan, as what was done before the cancel was heard is done.
        `on_failed` tidies up what partial results left, at the moment of a cancel: another scan may be chosen before
        the engine answers. `with_masks`: kinds that are handed over as they are in the
        scene, beside what `params` tell of them."""
        facts = self.facts
        facts.state, facts.running = state, Running(section, m.HANDING_OVER if with_volume else m.STARTING, part=part)
        asked, handed = dict(params), set()
        self._work = work = object()

        def wanted() -> bool:
            """Whether it still runs and is not being cancelled."""
            return self._work is work and not facts.running.cancelling

        def progress(told: Told) -> None:
            if wanted():
                running = facts.running
                running.text, running.fraction = told.get("text") or running.text, told.get("fraction")
                left = told.get("seconds_left")
                running.ends = None if left is None else self._clock() + left
                self.update()

        def came(told: Told) -> None:
            if wanted():
                on_partial(told)
            else:
                self.files.discard_all(told)

        def tidy() -> None:
            self._tidy = lambda: None
            self._guarded(section, on_failed)

        def ends() -> bool:
            """Whether it was what runs; then it is no longer."""
            for name in ("reference", *with_masks):
                if name in handed:
                    self.files.discard(asked[name])
            if self._work is not work:
                return False
            self.rest()
            return True

        def result(told: Told) -> None:
            heard = on_result if wanted() else late  # else it was done before the engine knew that it was cancelled
            if heard is None:
                self.files.discard_all(told)
            if ends():
                self._guarded(section, lambda: heard and heard(told))
                self.update()

        def error(told: Told) -> None:
            if ends():
                self._tidy()
                self.fail(section, told)

        def not_handed_over(problem: Exception) -> None:
            if isinstance(problem, OSError):
                error({"kind": "user", "message": m.cannot_hand_over(problem.strerror or str(problem))})
            else:
                error({"kind": "user", "message": str(problem)} if type(problem) is ValueError else self._told(problem))

        def take(name: str, told: Told, then: Then) -> None:
            asked[name] = {**(asked.get(name) or {}), **told}
            handed.add(name)
            self._guarded(section, then)

        def hand_over_volume() -> None:
            if with_volume:
                self.files.volume(facts.volume, lambda told: take("volume", told, hand_over_reference), not_handed_over)
            else:
                hand_over_reference()

        def hand_over_reference() -> None:
            if with_reference:
                self.files.reference(lambda told: take("reference", told, hand_over_masks), not_handed_over)
            else:
                hand_over_masks()

        def hand_over_masks() -> None:
            kind = next((one for one in with_masks if one not in handed), None)
            if kind is not None:
                self.files.masks(kind, lambda told: take(kind, told, hand_over_masks), not_handed_over)
            else:
                ask()

        def ask() -> None:
            self._stopped = None
            facts.running = Running(section, m.STARTING, part=part)
            self.update()
            self._request = self.engine.request(
                method, asked, on_progress=progress, on_partial=on_partial and came, on_result=result, on_error=error
            )

        self._stopped, self._tidy = lambda: error({"kind": "cancelled"}), tidy
        self.update()
        self._guarded(section, hand_over_volume)

    def cancel(self) -> None:
        """Stop what runs; what was there before stays."""
        if self.facts.state is State.INSTALLING:
            self.host.cancel_install()
            self.rest()
        elif self._stopped is not None:
            self.files.stop()
            self._stopped()
        elif self._request is not None and self.facts.running is not None:
            self.facts.running.cancelling = True
            self._request.cancel()
            self._tidy()
        self.update()

    def cancels(self, verb: str) -> bool:
        """Whether pressing the verb's button means to stop its work; then it is being stopped."""
        if self.facts.state is not STATE_OF[verb]:
            return False
        self.cancel()
        return True

    def rest(self) -> None:
        """Nothing runs any more."""
        self.facts.running = self._request = self._work = self._stopped = None
        self.facts.state = State.IDLE if self.facts.volume is not None else State.NO_VOLUME

    def fail(self, section: str, told: Told) -> None:
        """Show what went wrong; that the user stopped something is nothing wrong."""
        if told.get("kind") != "cancelled":
            text = told.get("message") or m.ENGINE_ENDED
            self.facts.problem = Problem(section, text, told.get("kind") or "internal", told.get("log") or "")
            self.facts.state = State.FAILED
        self.update()

    def dismiss(self) -> None:
        """The last problem and the last good news have been read."""
        self.facts.problem, self.facts.notice = None, ("", "")
        if self.facts.state is State.FAILED:
            self.rest()

    def _if_still(self, volume_key: str, section: str, then: Then) -> Then:
        """What is about a scan, and is not done where another one was chosen while the engine was installed."""

        def if_still() -> None:
            if self.facts.volume_key == volume_key:
                then()
            else:
                self.facts.notice = (section, m.NOT_STARTED)
                self.update()

        return if_still

    def _guarded(self, section: str, do: Then) -> None:
        """A fault of ours must not leave work behind that nobody does: it is told, and the panel rests."""
        try:
            do()
        except Exception as error:
            if self._request is not None:
                self._request.cancel()
            self.rest()
            self.fail(section, self._told(error))

    def _told(self, error: Exception) -> Told:
        """A fault as an answer, with where it happened in a file."""
        _log.error("a fault of the panel", exc_info=error)
        log = Path(self.engine.path(LOG))
        with suppress(OSError), log.open("a", encoding="utf-8") as stream:
            stream.writelines(traceback.format_exception(error))
        text = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        return {"kind": "internal", "message": m.fault(text), "log": str(log)}

    def _install(self, section: str, then: Then) -> None:
        facts = self.facts
        facts.state, facts.running = State.INSTALLING, Running(section, m.INSTALLING)

        def progress(text: str) -> None:
            if facts.state is State.INSTALLING and facts.running is not None:
                facts.running.text = text
                self.update()

        def done() -> None:
            if facts.state is State.INSTALLING:
                self.rest()
                self._guarded(section, lambda: (self.installed(), then()))

        def error(text: str, log: str = "") -> None:
            if facts.state is State.INSTALLING:
                self.rest()
                self.fail(section, {"kind": "user", "message": text, "log": log})

        self.update()
        self.host.install(progress, done, error)
