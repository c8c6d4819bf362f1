"""Demand of a training step: its generate calls and its training rows.

The memory plan and the token plan share this demand, so both describe the same step. Numbers are
upper bounds: no episode stops early, every prompt has a failure, each reset goes back to the
prompt, and every group of an adaptive plan fails (even where costs are kept equal: only after
the first quarter of the prompts is their cost known). A `share` below 1 turns the bounds into
expectations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from llm.config.demand import Call, Demand
from llm.resets.localizers import prompts as uses_model

if TYPE_CHECKING:
    from llm.config.train import TrainConfig

#: Assumed by expectations, because real lengths are unknown before the run. It is the length of a
#: completion or a reply as a share of its limit, the share of an episode that a reset regenerates,
#: the share of an adaptive plan's groups that fail, and of prompts that dynamic sampling replaces.
TYPICAL = 0.5

#: Tokens of a request for a localization or a second attempt, without problem and solution.
REQUEST = 256


class Lengths(NamedTuple):
    """Maximum tokens of a prompt, and of a request that follows a solution."""

    prompt: int
    request: int = REQUEST


def demand(config: TrainConfig, request: int = REQUEST, share: float = 1.0) -> Demand:
    """Demand of one step; with dynamic sampling, of one round.

    Parameters
    ----------
    config : TrainConfig
    request : int
        Tokens of a request that follows a solution.
    share : float
        1 for the upper bound; `TYPICAL` for the expectation.
    """
    limits, prompts = config.sampling.limits(), config.prompts_per_step
    if config.section is None:
        return _plan_and_rule(config, int(share * limits.longest), request, share)
    calls, rows = config.section.demand(limits, request, share)
    return Demand(
        [call._replace(requests=prompts * call.requests) for call in calls],
        [
            kind._replace(number=prompts * kind.number, prefixes=prompts * kind.prefixes)
            for kind in rows
        ],
    )


def _plan_and_rule(config: TrainConfig, completion: int, request: int, share: float) -> Demand:
    plan, prompts = config.group_plan(), config.prompts_per_step
    all_of_them = _of_prompts(config, prompts, completion, request, share)
    if not plan.equal_cost or share == 1:
        return all_of_them
    fresh, total = all_of_them.calls[0].tokens, sum(call.tokens for call in all_of_them.calls)
    fewer = max(-(-prompts // 4), round(prompts * fresh / total))
    return _of_prompts(config, fewer, completion, request, share)


def _of_prompts(
    config: TrainConfig, prompts: int, completion: int, request: int, share: float
) -> Demand:
    plan = config.group_plan()
    again = int(share * completion)
    reply = int(share * config.localization.max_tokens)
    fresh = Call("fresh", prompts, plan.fresh or plan.resets, 0, completion)
    calls, rows = [fresh], [fresh.rows] if plan.fresh else []
    pool = fresh.samples
    for number in range(1, plan.rounds + 1):
        # The prompts that are still without a success.
        failed = math.ceil(prompts * share**number) if plan.retries else prompts
        if uses_prompted_localizer(config):
            asked = failed * min(plan.localized or pool, pool)
            votes = config.localization.votes
            calls.append(Call("localization", asked, votes, completion + request, reply))
        resets = failed * plan.resets
        reset = Call("reset", resets, plan.per_reset, completion - again, again)
        calls.append(reset)
        rows.append(reset.rows)
        pool = plan.per_reset
    return Demand(calls, rows)


def evaluation(config: TrainConfig, share: float = 1.0) -> Call:
    """Generate call of an evaluation; `demand` leaves it out."""
    options, completion = config.evaluation, int(share * config.sampling.limits().longest)
    return Call("evaluation", options.problems, options.samples, 0, completion)


def rounds(config: TrainConfig, share: float = 1.0) -> float:
    """Generation rounds of a step; above 1 when dynamic sampling replaces prompts."""
    return sum(share**number for number in range(config.dynamic_sampling + 1))


def uses_prompted_localizer(config: TrainConfig) -> bool:
    """Whether a step generates localization replies."""
    resets = config.group_plan().resets
    return config.needs("localizer") and uses_model(config.localizer) and resets > 0
