"""Training guards: detect within about ten steps that a GRPO run is failing without an error.

A detector is a pure function of the metric history. The history has one mapping per step, oldest first. A condition
must hold for about `PATIENCE` steps, because a single batch is noisy. The configuration's `on_guard` decides whether a
guard prints a warning (`warn`) or ends the run (`stop`). NaN and Inf always end the run
(`training.reliability.nan_guard`).
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from medvlm_r1.training.reliability.checkpoint import between_generations
from medvlm_r1.training.reliability.nan_guard import last_completion

Figures = Mapping[str, float | None]
Detector = Callable[[Sequence[Figures]], str | None]
"""Function of a metric history. It describes the problem in the latest steps; None if there is no problem."""

PATIENCE = 5
"""Number of latest steps in which a condition must hold before a guard reports it."""
NO_ADVANTAGE_PATIENCE = 8
"""Patience of `no_advantage`. It is longer, because a policy that is nearly always correct sometimes has such steps."""
COLLAPSE = 0.3
"""Fraction of the earlier median length below which completions have collapsed."""
KL_FLOOR, KL_FACTOR, KL_CEILING = 1.0, 10.0, 3.0
"""Thresholds of `kl_runaway` in nats per token. The limit is `KL_FACTOR` times the earlier median, but at least
`KL_FLOOR` and at most `KL_CEILING`. At 3 nats a token is twenty times as likely as under the reference."""
GAP_WORTH, GAP_LOST = 15.0, 10.0
"""Thresholds of `image_gap_shrinking` in percentage points. The guard reports a drop of at least `GAP_LOST` from a gap
of at least `GAP_WORTH`, if the gap has also halved."""
_REPEAT = 50
_MAX_HISTORY = 1000


def zero_rewards(history: Sequence[Figures]) -> str | None:
    """Detect that all rewards of all completions are 0."""
    rows = _last(history, PATIENCE, "reward", "reward_std")
    if rows and all(reward == spread == 0 for reward, spread in rows):
        return f"all rewards were 0 in the last {PATIENCE} generations"
    return None


def no_advantage(history: Sequence[Figures]) -> str | None:
    """Detect that rewards are equal within every group. If all rewards are 0, `zero_rewards` reports it instead."""
    rows = _last(history, NO_ADVANTAGE_PATIENCE, "frac_reward_zero_std", "reward")
    if rows and all(share >= 1 for share, _ in rows) and any(reward != 0 for _, reward in rows):
        mean = statistics.fmean(reward for _, reward in rows)
        return (
            f"in the last {NO_ADVANTAGE_PATIENCE} generations all completions of a group had the same reward (mean "
            f"{mean:.3g}), so nothing was learned"
        )
    return None


def all_cut_off(history: Sequence[Figures]) -> str | None:
    """Detect that every completion reaches the length limit."""
    rows = _last(history, PATIENCE, "completions/clipped_ratio")
    if rows and all(share >= 1 for (share,) in rows):
        return f"every completion of the last {PATIENCE} generations was cut off at max_completion_length"
    return None


def length_collapse(history: Sequence[Figures]) -> str | None:
    """Detect that completions have become far shorter than before."""
    lengths = _values(history, "completions/mean_length")
    before, now = lengths[:-PATIENCE], lengths[-PATIENCE:]
    if len(before) < PATIENCE:
        return None
    usual = statistics.median(before)
    if max(now) < COLLAPSE * usual:
        return f"completions fell from {usual:.0f} tokens to {statistics.fmean(now):.0f}"
    return None


def kl_runaway(history: Sequence[Figures]) -> str | None:
    """Detect that the KL divergence from the reference is above its limit (see `KL_FLOOR`)."""
    values = _values(history, "kl")
    before, now = values[:-PATIENCE], values[-PATIENCE:]
    if len(now) < PATIENCE:
        return None
    usual = statistics.median(before) if len(before) >= PATIENCE else 0.0
    if min(now) > min(max(KL_FLOOR, KL_FACTOR * usual), KL_CEILING):
        return f"the KL divergence from the reference is {now[-1]:.3g} nats a token, usually {usual:.2g}"
    return None


def image_gap_shrinking(history: Sequence[Figures]) -> str | None:
    """Detect that the accuracy gained from the images is shrinking.

    The gain is `eval_accuracy` minus `eval_blank_accuracy` (percent). Rows of the history without both are skipped.
    """
    pairs = [(row.get("eval_accuracy"), row.get("eval_blank_accuracy")) for row in history]
    gaps = [accuracy - blank for accuracy, blank in pairs if accuracy is not None and blank is not None]
    if len(gaps) < 2:
        return None
    best, now = max(gaps[:-1]), gaps[-1]
    if best >= GAP_WORTH and now <= best / 2 and best - now >= GAP_LOST:
        return f"the image adds {now:.1f} points of accuracy, after {best:.1f} at its best"
    return None


class Guard(NamedTuple):
    """A detector and the advice printed with its warning."""

    detector: Detector
    advice: str


GUARDS: dict[str, Guard] = {
    "zero rewards": Guard(
        zero_rewards,
        "compare the completion with what the rewards want (template, format); an SFT stage first, or a reward "
        "for the format, gives a first signal",
    ),
    "no advantage": Guard(
        no_advantage,
        "harder or more varied questions, a higher trainer.temperature or more trainer.num_generations; at full "
        "marks the run is done",
    ),
    "cut off": Guard(
        all_cut_off,
        "a higher trainer.max_completion_length; or the policy does not end its answers, which an SFT stage teaches",
    ),
    "length collapse": Guard(
        length_collapse,
        "a reward that wants reasoning, a higher trainer.beta or a lower trainer.learning_rate",
    ),
    "KL run-away": Guard(kl_runaway, "a lower trainer.learning_rate or a higher trainer.beta"),
    "image gap shrinking": Guard(
        image_gap_shrinking,
        "stop at the checkpoint before; questions that cannot be answered without the image, or a reward that "
        "compares with a blank image",
    ),
}


class Guards(TrainerCallback):  # type: ignore[misc]
    """Run all detectors after every step. Report a problem once, and again if it returns after 50 steps without it.

    Attributes:
        stopped: Warning of the guard that ended the run; None if no guard ended it.
    """

    def __init__(self, trainer: Any, *, stop: bool, metrics: Path) -> None:
        self._trainer = trainer
        self._stop = stop
        self._metrics = metrics
        self._history: deque[Figures] = deque(maxlen=_MAX_HISTORY)
        self._read: dict[str, int] = {}
        self._spoke: dict[str, int] = {}
        self._wanted: str | None = None
        self.stopped: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Load the metric history of a resumed run. `MetricsLog` has already truncated the file to the resumed step."""
        if self._metrics.is_file():
            self._history.extend(json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines())

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Add the metrics of an evaluation to the history.

        TRL clears its lists of training metrics when it logs them, so the read positions are then reset.
        """
        if "loss" in logs:
            self._read = {}
        elif any(name.startswith("eval_") for name in logs):
            self._history.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the metrics of the step to the history, run every detector, and warn or stop."""
        self._history.append(self._figures())
        history = list(self._history)
        for name, guard in GUARDS.items():
            problem = guard.detector(history)
            if problem is None:
                continue
            last = self._spoke.get(name)
            self._spoke[name] = state.global_step
            if last is None or state.global_step - last > _REPEAT:
                line = f"Guard ({name}) at step {state.global_step}: {problem}. Try {guard.advice}."
                line = " ".join(filter(None, [line, last_completion(self._trainer)]))
                self._wanted = self._wanted or line
                if state.is_world_process_zero and not self._stop:
                    print(line, file=sys.stderr)
        # At the last step there is nothing left to stop.
        may_stop = state.global_step < state.max_steps and between_generations(self._trainer)
        if self._stop and self._wanted and may_stop:
            self.stopped = self._wanted
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print the warning of a guard that could no longer stop the run."""
        if self._stop and self._wanted and self.stopped is None and state.is_world_process_zero:
            print(self._wanted, file=sys.stderr)

    def _figures(self) -> Figures:
        """Mean of each metric recorded since the previous step."""
        gathered = self._trainer._metrics["train"]
        new = {name: values[self._read.get(name, 0) :] for name, values in gathered.items()}
        self._read = {name: len(values) for name, values in gathered.items()}
        return {name: statistics.fmean(values) for name, values in new.items() if values}


def _values(history: Sequence[Figures], name: str) -> list[float]:
    """Values of a metric in the rows that have it."""
    return [value for row in history if (value := row.get(name)) is not None]


def _last(history: Sequence[Figures], count: int, *names: str) -> list[tuple[float, ...]]:
    """Values of these metrics in the last `count` rows that have all of them; empty if there are fewer such rows."""
    rows = []
    for row in reversed(history):
        values = tuple(value for name in names if (value := row.get(name)) is not None)
        if len(values) == len(names):
            rows.append(values)
            if len(rows) == count:
                return rows
    return []
