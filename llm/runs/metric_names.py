"""The metrics of a run: every name in `metrics.jsonl`, with its meaning and unit.

The reference of the documentation is made from this table. Tests compare it with real runs.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric.

    Attributes
    ----------
    name : str
        With `K`, `STAGE` or `NAME` where names differ in a part.
    meaning : str
    unit : str
        "" for a pure number.
    """

    name: str
    meaning: str
    unit: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the names match."""
        text = re.escape(self.name).replace("STAGE", r"\w+").replace("@K", r"@\d+")
        text = text.replace("NAME", r"[^/]+")
        return re.compile(text)


SHARE, TOKENS, SECONDS, NATS, REWARD = "share", "tokens", "seconds", "nats", "reward"

#: By subject; a run has those that its algorithm, task and options give.
METRICS: dict[str, tuple[Metric, ...]] = {
    "Progress": (
        Metric("step", "Training step; 0 is the evaluation before the first one.", "steps"),
        Metric("num_tokens", "Tokens of all rows so far, prompts included.", TOKENS),
        Metric("step_time", "Wall-clock time of the step, evaluation included.", SECONDS),
        Metric("prefix_cache_hit_rate/STAGE", "Prompt tokens that vLLM found in its cache.", SHARE),
        Metric("time/STAGE", "Wall-clock time of a stage of the step.", SECONDS),
        Metric("tokens_per_second/STAGE", "Speed of a stage of the step.", "tokens a second"),
    ),
    "Held-out problems": (
        Metric("eval/pass@K", "Probability that one of K completions succeeds.", SHARE),
        Metric("eval/reward", "Mean reward of a completion.", REWARD),
        Metric("eval/completions/mean_length", "Mean length of a completion.", TOKENS),
        Metric("eval/completions/clipped_ratio", "Completions cut at a limit.", SHARE),
        Metric("eval/verifier/failure_rate", "Completions that could not be verified.", SHARE),
    ),
    "Rollouts": (
        Metric("reward", "Mean reward of the trained episodes.", REWARD),
        Metric("reward_std", "Mean standard deviation of the rewards of a group.", REWARD),
        Metric("rewards/NAME/mean", "Mean of one of several rewards, without weight.", REWARD),
        Metric("rewards/NAME/std", "Standard deviation of one of several rewards.", REWARD),
        Metric("fresh/reward", "Mean reward of rollouts from the prompt.", REWARD),
        Metric("frac_reward_zero_std", "Groups without a signal: all rewards equal.", SHARE),
        Metric("completions/mean_length", "Mean length, reset prefix included.", TOKENS),
        Metric("completions/min_length", "Shortest of these lengths.", TOKENS),
        Metric("completions/max_length", "Longest of these lengths.", TOKENS),
        Metric("completions/clipped_ratio", "Episodes cut at a limit.", SHARE),
        Metric("thoughts/mean", "Thoughts of an episode; 1 throughout: no delimiter.", "thoughts"),
        Metric("entropy", "Mean surprisal of the sampled tokens.", NATS),
        Metric("verifier/failure_rate", "Episodes that could not be verified.", SHARE),
    ),
    "Resets": (
        Metric("reset/reward", "Mean reward of continuations.", REWARD),
        Metric("reset/position", "Part of the seed episode that a reset keeps.", SHARE),
        Metric("reset/correction_rate", "Continuations of failed episodes that succeed.", SHARE),
        Metric("reset/empty_prefix_rate", "Resets to the prompt.", SHARE),
        Metric("reset/informative_group_rate", "Reset groups whose rewards differ.", SHARE),
        Metric("reset/suffix_tokens", "Mean length of a continuation, without prefix.", TOKENS),
    ),
    "Localizer": (
        Metric("localize/parse_failure_rate", "Replies that name no step.", SHARE),
        Metric("localize/exact", "Resets at the first wrong step.", SHARE),
        Metric("localize/within_1", "Resets at most one step from it.", SHARE),
        Metric("localize/clean_prefix_rate", "Resets whose prefix has no wrong step.", SHARE),
        Metric("localize/precision", "Weight on first wrong steps, of all weight.", SHARE),
        Metric("localize/recall", "Mean weight of the first wrong step.", SHARE),
    ),
    "Update": (
        Metric("loss", "Loss; its gradient is trained on, its value hardly tells.", ""),
        Metric("update/tokens", "Tokens of rows that move the policy, prompts included.", TOKENS),
        Metric("update/computed_tokens", "Of these, without prefixes that rows share.", TOKENS),
        Metric("grad_norm", "Norm of the gradient before clipping.", ""),
        Metric("learning_rate", "Learning rate of the last optimizer step.", ""),
        Metric("kl", "KL term to the reference, where beta > 0 (k3 estimate).", NATS),
        Metric("clip_ratio/low_mean", "Tokens clipped from below.", SHARE),
        Metric("clip_ratio/low_min", "The least such share of a row.", SHARE),
        Metric("clip_ratio/high_mean", "Tokens clipped from above.", SHARE),
        Metric("clip_ratio/high_max", "The largest such share of a row.", SHARE),
        Metric("clip_ratio/region_mean", "Tokens clipped from either side.", SHARE),
        Metric("cispo_clip_ratio", "Tokens whose ratio CISPO truncates.", SHARE),
        Metric("sampling/sampling_logp_difference/mean", "|Δ log-prob|, engine to trainer.", NATS),
        Metric("sampling/sampling_logp_difference/max", "The largest of these.", NATS),
        Metric("sampling/importance_sampling_ratio/min", "Least ratio π_trainer/π_engine."),
        Metric("sampling/importance_sampling_ratio/mean", "Mean of these ratios."),
        Metric("sampling/importance_sampling_ratio/max", "Largest of these ratios."),
    ),
    "Costs so far": (
        Metric("ledger/episodes", "Episodes generated.", "episodes"),
        Metric("ledger/steps", "Tokens generated, without localizations.", TOKENS),
        Metric("ledger/trained_episodes", "Episodes trained on.", "episodes"),
        Metric("ledger/trained_steps", "Tokens trained on.", TOKENS),
        Metric("ledger/localizer_cost", "Tokens generated by the localizer.", TOKENS),
        Metric("ledger/resets_drawn", "Seed episodes that the reset rule weighed.", "episodes"),
        Metric("ledger/resets_accepted", "Seed episodes that were reset.", "episodes"),
        Metric("ledger/fallbacks", "Fresh groups in place of a reset.", "groups"),
    ),
    "Some algorithms": (
        Metric("dynamic_sampling/prompts", "Prompts sampled to fill the batch.", "prompts"),
        Metric("dynamic_sampling/reward", "Mean reward of all of them.", REWARD),
        Metric("adaptive/started", "Adaptive resets: prompts that are rolled out.", "prompts"),
        Metric("adaptive/prompts", "Adaptive resets: prompts that are reset.", SHARE),
        Metric("adaptive/tokens", "Adaptive resets: generated tokens of reset groups.", SHARE),
        Metric("adaptive/solved", "Adaptive resets: reset prompts with a success.", SHARE),
        Metric("adaptive/rounds", "Adaptive resets: reset groups of a reset prompt.", "groups"),
        Metric("vineppo/informative_rate", "VinePPO: thoughts with an advantage.", SHARE),
        Metric("vineppo/value_tokens", "VinePPO: tokens generated for values.", SHARE),
        Metric("score/second_reward", "SCoRe: mean reward of second attempts.", REWARD),
        Metric("score/fixed", "SCoRe: failed first attempts that succeed next.", SHARE),
        Metric("score/broken", "SCoRe: successes whose second attempt fails.", SHARE),
        Metric("critique/refined_reward", "Critique-GRPO: reward of refinements.", REWARD),
        Metric("critique/chosen_reward", "Critique-GRPO: of those trained on.", REWARD),
        Metric("critique/correction_rate", "Critique-GRPO: failures refined to success.", SHARE),
        Metric("spo_tree/leaves", "SPO-tree: leaves a prompt.", "episodes"),
        Metric("spo_tree/segments", "SPO-tree: trained segments a prompt.", "segments"),
        Metric("spo_tree/informative_group_rate", "SPO-tree: groups that differ.", SHARE),
        Metric("spo_tree/masked_rate", "SPO-tree: likely tokens not trained on.", SHARE),
    ),
}


def described(name: str) -> Metric | None:
    """The metric of this name, or None."""
    entries = (metric for metrics in METRICS.values() for metric in metrics)
    return next((metric for metric in entries if metric.pattern.fullmatch(name)), None)
