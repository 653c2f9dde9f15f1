"""Training guards: detect within about ten steps that a GRPO run is failing without an error.

A detector is a pure function of the metric history. The history has one mapping per step, oldest first. A condition
must hold for about `PATIENCE` steps, because a single batch is noisy. The configuration's `on_guard` decides whether a
guard prints a warning (`warn`) or ends the run (`stop`). NaN and Inf always end the run
(`training.reliability.guard`).
"""

import itertools
import json
import re
import statistics
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate.utils import gather_object
from transformers import TrainerCallback

from medvlm_r1.prompts.parser import parse_response
from medvlm_r1.rewards.completion import completion_text
from medvlm_r1.training.reliability.checkpoint import between_generations
from medvlm_r1.training.reliability.guard import SAMPLE_ID, last_completion, local_shard

Figures = Mapping[str, float | None]
Detector = Callable[[Sequence[Figures]], str | None]
"""Function of a metric history. It describes the problem in the latest steps; None if there is no problem."""

PATIENCE = 5
"""Number of latest steps in which a condition must hold before a guard reports it."""
NO_ADVANTAGE_PATIENCE = 8
"""Patience of the guards for rewards that do not differ. It is longer, because a policy that is nearly always or nearly
never correct sometimes has such steps."""
COLLAPSE = 0.3
"""Fraction of the earlier median length below which completions have collapsed."""
KL_FLOOR, KL_FACTOR, KL_CEILING = 1.0, 10.0, 3.0
"""Thresholds of `kl_runaway` in nats per token. The limit is `KL_FACTOR` times the earlier median, but at least
`KL_FLOOR` and at most `KL_CEILING`. At 3 nats a token is twenty times as likely as under the reference."""
ADAPTERS_ZERO = "adapters_zero"
"""Key in the history, but not in `metrics.jsonl`: 1 as long as all LoRA matrices B are 0."""
GAP_WORTH, GAP_LOST = 15.0, 10.0
"""Thresholds of `image_gap_shrinking` in percentage points. The guard reports a drop of at least `GAP_LOST` from a gap
of at least `GAP_WORTH`, if the gap has also halved."""
_EXACT = 1e-6
"""Largest rounding error of a mean or a standard deviation of equal rewards."""
_REPEAT = 50
_MAX_HISTORY = 1000


def zero_rewards(history: Sequence[Figures]) -> str | None:
    """Detect that all rewards of all completions are 0."""
    rows = _last(history, PATIENCE, "reward", "reward_std")
    if rows and all(reward == spread == 0 for reward, spread in rows):
        return f"all rewards were 0 in the last {PATIENCE} generations"
    return None


def no_advantage(history: Sequence[Figures]) -> str | None:
    """Detect that rewards are equal within every group. A more specific guard that finds the reason comes first."""
    rows = _last(history, NO_ADVANTAGE_PATIENCE, "frac_reward_zero_std", "reward")
    rewards = [reward for _, reward in rows]
    if not any(rewards) or any(share < 1 for share, _ in rows) or never_correct(history):
        return None
    means = {history[-1].get(f"rewards/{name}/mean") for name in _rewards(history)}
    same = "full marks" if means == {1.0} else f"the same reward (mean {statistics.fmean(rewards):.3g})"
    return f"in the last {len(rows)} generations all completions of a group had {same}, so nothing was learned"


def never_correct(history: Sequence[Figures]) -> str | None:
    """Detect that all completions are well-formed and none is correct. The rewards are recognized by their names."""
    for formed, correct in itertools.permutations(_rewards(history), 2):
        rows = _last(history, NO_ADVANTAGE_PATIENCE, f"rewards/{formed}/mean", f"rewards/{correct}/mean")
        named = re.search("(?<![a-z])format", formed) and re.search("(?<![a-z])(accuracy|open_answer)", correct)
        if rows and named and all(mean > 1 - _EXACT and accuracy == 0 for mean, accuracy in rows):
            return f"{formed} was 1 and {correct} 0 for all completions of the last {len(rows)} generations"
    return None


def constant_reward(history: Sequence[Figures]) -> str | None:
    """Detect a reward that has not varied within any group since the first step, while another reward has.

    A reward that was 1 for every completion is not reported: it may be for a format that the policy knows already.
    """
    for name in _rewards(history):
        varies, mean, std = (f"rewards/{name}/{figure}" for figure in ("varying_groups", "mean", "std"))
        rows = [row for row in history if row.get(varies) is not None]
        others = any(value for row in rows for key, value in row.items() if key.endswith("/varying_groups"))
        if len(rows) < NO_ADVANTAGE_PATIENCE or any(row[varies] for row in rows) or not others:
            continue
        everywhere = all((row.get(std) or 0) < _EXACT for row in rows)
        value = rows[-1].get(mean) or 0.0
        if (everywhere and abs(value - 1) < _EXACT) or never_correct(history):
            continue
        what = f"{value:.3g} for every completion" if everywhere else "the same for all completions of each prompt"
        cause = ", or no completion has earned it" if everywhere and value == 0 else ""
        return (
            f"{name} was {what} of the first {len(rows)} generations, while other rewards varied: it probably ignores "
            f"the completion{cause}"
        )
    return None


def untrained_adapters(history: Sequence[Figures]) -> str | None:
    """Detect that the matrices B of all LoRA adapters are still 0 after steps in which some rewards differed."""
    if not history or not history[-1].get(ADAPTERS_ZERO):
        return None
    shares = _values(history, "frac_reward_zero_std")
    steps = len(_values(history, ADAPTERS_ZERO)) if not shares else sum(share < 1 for share in shares)
    return f"after {steps} steps the LoRA adapters change nothing: B is 0 in all" if steps >= PATIENCE else None


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
    """A detector, the advice printed with its warning, and whether the warning compares an answer with the truth."""

    detector: Detector
    advice: str
    shows_answer: bool = False


_ADVICE = yaml.safe_load(Path(__file__).with_name("guards.yaml").read_text(encoding="utf-8"))
GUARDS: dict[str, Guard] = {
    name: Guard(detector, _ADVICE[name], shows_answer=detector is never_correct)
    for name, detector in {
        "zero rewards": zero_rewards,
        "no advantage": no_advantage,
        "never correct": never_correct,
        "constant reward": constant_reward,
        "untrained adapters": untrained_adapters,
        "cut off": all_cut_off,
        "length collapse": length_collapse,
        "KL run-away": kl_runaway,
        "image gap shrinking": image_gap_shrinking,
    }.items()
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
        self._adapters_trained = False
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
                answer = last_answer(self._trainer) if guard.shows_answer else None
                line = " ".join(filter(None, [line, last_completion(self._trainer), answer]))
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
        figures = {name: statistics.fmean(values) for name, values in new.items() if values}
        return figures | ({} if self._trained() else {ADAPTERS_ZERO: 1.0})

    def _trained(self) -> bool:
        """Whether any LoRA matrix B differs from 0, its value before training. Without LoRA it is True."""
        if not self._adapters_trained:
            named = self._trainer.accelerator.unwrap_model(self._trainer.model).named_parameters()
            adapters = [weight for name, weight in named if "lora_B" in name]
            self._adapters_trained = not adapters or any(gather_object([any(map(_nonzero, adapters))]))
        return self._adapters_trained


def _nonzero(weight: Any) -> bool:
    return bool(local_shard(weight).any())


def last_answer(trainer: Any) -> str:
    """Sentence with the parsed answer of the last completion and the correct answer of its sample."""
    logs, columns = trainer._logs, [SAMPLE_ID, "options", "letter", "answer"]
    rows = trainer.train_dataset.with_format(None).select_columns(columns)
    row = next(row for row in rows if row[SAMPLE_ID] == logs["extra"][SAMPLE_ID][-1])
    response = parse_response(completion_text(logs["completion"][-1]), row["options"])
    return f"Parsed answer: {response.answer!r}; correct answer: {' '.join([row['letter'], row['answer']]).strip()!r}."


def _rewards(history: Sequence[Figures]) -> list[str]:
    """Names of the rewards."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("rewards/") and key.endswith("/mean"))
    return [key.removeprefix("rewards/").removesuffix("/mean") for key in keys]


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
