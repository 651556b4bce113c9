"""Checkpoints: Orbax writes and reads them, an integrity manifest verifies them.

Orbax restores a flipped byte without complaint, so the digest of each leaf is saved beside the
state and compared after restoring. The manifest is written by the thread that saves, before the
checkpoint is renamed to its final name: a checkpoint without a manifest is unfinished.
"""

import contextlib
import dataclasses
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxdl.errors import UserError
from jaxdl.judging import badness
from jaxdl.rundir import integrity
from jaxdl.rundir.constants import Constants, Unusable
from jaxdl.rundir.digest import start
from jaxdl.rundir.quiet import quiet_orbax
from jaxdl.rundir.saved_state import as_saved, as_today, saved_fields
from jaxdl.rundir.verified import reason, restored
from jaxdl.train.state import TrainState
from jaxdl.types import CONSTANT


class Restored(NamedTuple):
    """Contents of a checkpoint: the state and the JSON that was saved beside it."""

    state: TrainState
    extra: dict[str, Any]


class Checkpoints:
    """Checkpoints of a run: the newest ones and the best.

    A save that fails, as on a full disk, is a warning: training goes on, and `unsaved` tells at the
    end.

    Args:
        folder: where they live; made if absent.
        keep_latest: how many of the newest stay.
        keep_best: how many of the best by the monitored metric stay.
        mode: whether 'max' or 'min' of the metric is best.
        writes: False to look only, at what another process may be writing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        mode: str = "max",
        writes: bool = True,
    ):
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(quiet_orbax())
        self._folder, self._writes = folder.absolute(), writes
        self._constants = Constants(self._folder.parent / CONSTANT)
        self._saving: int | None = None  # the step that is being written
        self._content: Future[tuple[Any, ...]] = Future()  # of its integrity manifest
        self._failed: str | None = None  # what the last save failed of
        self._metrics = {step: _metric(self._folder, step) for step in self.steps()}
        self._policy = _LatestAndBest(self._metrics, keep_latest, keep_best, mode)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        self._sweep()
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                lightweight_initialize=True,
                read_only=not self._writes,
                save_interval_steps=int(self._writes),
                create=self._writes,
            ),
        )

    def _sweep(self) -> None:
        """Remove unfinished checkpoints. A write that outlives its save may create one again."""
        if self._writes and jax.process_index() == 0:
            for folder in self._unfinished("*"):
                shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Wait for pending writes."""
        self.settle()
        self._manager.close()
        self._sweep()
        self._quiet.close()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; waits for the one being written."""
        self.settle()
        if not self._folder.is_dir():
            return []
        return sorted(
            int(f.name) for f in self._folder.iterdir() if f.name.isdecimal() and f.is_dir()
        )

    def save(
        self, step: int, state: TrainState, metric: float | None, extra: Mapping[str, Any]
    ) -> None:
        """Start to write a checkpoint; returns once the state may be donated.

        Args:
            step: its name.
            state: copied before this returns; its constants are stored once beside all checkpoints.
            metric: the monitored metric at this step, or None where it was not measured.
            extra: anything JSON can say.
        """
        self.settle()
        self._sweep()
        measured = None if metric is None or math.isnan(metric) else float(metric)
        self._saving, self._content, self._metrics[step] = step, Future(), measured
        moving, extra = saved_fields(state), dict(extra)
        try:
            if state.constant is not None:
                extra[CONSTANT] = self._constants.put(state.constant)
            args = ocp.args.Composite(state=ocp.args.StandardSave(moving))
            if self._manager.save(step, args=args):
                self._content.set_result((step, measured, start(moving), extra))
            else:  # it is there: saved as the run was stopped, and evaluated now
                if measured is not None and jax.process_index() == 0:
                    integrity.measure(self._folder / str(step), step, measured)
                self._saving = None
        except BaseException as error:
            self._content.set_exception(error)  # the thread that writes waits for it
            if not isinstance(error, Exception):
                raise
            self._fail(error)

    def _seal(self) -> None:
        """Write the manifest; called in Orbax's thread, on one process, before the final rename."""
        step, metric, wait, extra = self._content.result()
        (folder,) = [f for f in (*self._unfinished(step), self._folder / str(step)) if f.is_dir()]
        integrity.write(folder, step, metric, wait(), extra)

    def _unfinished(self, step: int | str) -> list[Path]:
        return list(self._folder.glob(f"{step}.orbax-checkpoint-tmp*"))

    def watch(self, *_: Any) -> None:
        """Warn if the pending save has failed, without waiting. Cheap enough for each step."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.settle()

    def settle(self) -> None:
        """Wait for the pending save, and warn if it has failed."""
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # tensorstore, the file system, a thread: of many kinds
            self._fail(error)
        else:
            self._saving = self._failed = None

    def _fail(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        self._failed = f"checkpoint {self._folder / str(step)} was not written: {reason(error)}"
        # This one's other threads are yet to fail, and what asked it next would be told.
        for _ in range(2):
            with contextlib.suppress(Exception):
                self._manager.close()
        self._manager = self._open()
        for _ in range(10):
            time.sleep(0.05)
            self._sweep()
        warnings.warn(f"{self._failed}; training goes on", stacklevel=2)

    def unsaved(self) -> str | None:
        """Wait for the pending save; return the last save's error message, or None."""
        steps = self.steps()
        newest = max(steps, default=0)
        return self._failed and f"{self._failed}; the same command goes on from step {newest}"

    def restore(self, step: int, like: TrainState) -> Restored:
        """The checkpoint of one step, verified leaf by leaf.

        Args:
            step: one of `steps()`.
            like: shapes, types and shardings to restore to; any mesh will do.

        Raises:
            UserError: it cannot be read, or a leaf is not what was saved; names the file.
        """
        folder = self._folder / str(step)
        manifest = integrity.read(folder, step)
        wanted = saved_fields(like)
        args = ocp.args.StandardRestore(as_saved(wanted, manifest.digests))
        saved = restored(
            folder,
            manifest,
            lambda: self._manager.restore(step, args=ocp.args.Composite(state=args))["state"],
        )
        state, extra = dataclasses.replace(like, **as_today(saved, wanted)), dict(manifest.extra)
        digest = extra.pop(CONSTANT, None)
        if like.constant is not None:
            state = dataclasses.replace(state, constant=self._constants.get(digest, like.constant))
        return Restored(state, extra)

    def restore_newest(self, like: Callable[[int], TrainState]) -> Restored | None:
        """The newest intact checkpoint, or None.

        Damaged ones are deleted with a warning, so that their steps are saved again.

        Args:
            like: gives shapes, types and shardings of a step's state.

        Raises:
            UserError: there are checkpoints, and not one of them can be used.
        """
        errors = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like(step))
            except Unusable:
                raise  # no other checkpoint can do without it
            except UserError as error:
                errors.append((step, str(error)))
                continue
            for bad, message in errors:
                warnings.warn(f"{message}; using step {step} instead", stacklevel=2)
                if self._writes:
                    self._manager.delete(bad)
            return restored
        if errors:
            raise UserError(
                f"{errors[0][1]}; no older one is sound: move {self._folder} away to start again"
            )
        return None


class _LatestAndBest(policies.PreservationPolicy):  # type: ignore[misc]  # Orbax has no types
    """Policy of which checkpoints to keep: the newest and the best.

    Orbax's own cannot be combined, and keep metrics in a file without a digest.
    """

    def __init__(self, metrics: Mapping[int, float | None], latest: int, best: int, mode: str):
        self._metrics, self._latest, self._best = metrics, latest, best
        self._mode = mode

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [c.step for c in checkpoints]
        measured = [s for s in steps if self._metrics.get(s) is not None]
        # Of equals, the newest.
        rank = lambda s: (badness(self._metrics[s], self._mode), -s)
        best = sorted(measured, key=rank)[: self._best]
        kept = {*steps[-self._latest :], *best}
        return [s in kept for s in steps]


def _metric(folder: Path, step: int) -> float | None:
    try:
        return integrity.read(folder / str(step), step).metric
    except UserError:
        return None
