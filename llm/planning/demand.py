"""What a training step asks for: its generate calls, and the rows that it trains on.

The plans of memory and of tokens both read this, so that they are plans of the same step. Numbers
are upper bounds: no episode stops by itself, every start has a failure, each reset is to the
prompt. A `share` below 1 makes an expectation of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llm.config.demand import Call, Demand

if TYPE_CHECKING:
    from llm.config.train import TrainConfig

#: What an expectation assumes, as which lengths a model writes is not known before it does: the
#: length of a completion or a reply, as a share of its limit; the share of an episode that is
#: generated anew after a reset; the share of prompts that dynamic sampling replaces.
TYPICAL = 0.5

#: Tokens of a request for a localization or for a second attempt, beside problem and solution.
REQUEST = 256


class Lengths(NamedTuple):
    """Most tokens of what a run does not generate: a prompt; a request that follows a solution."""

    prompt: int
    request: int = REQUEST


def demand(config: TrainConfig, request: int = REQUEST, share: float = 1.0) -> Demand:
    """What a step asks for; with dynamic sampling, one round of it.

    Parameters
    ----------
    config : TrainConfig
    request : int
        Tokens of a request that follows a solution.
    share : float
        1 for the most; `TYPICAL` for what is expected.
    """
    limits, prompts = config.sampling.limits(), config.prompts_per_step
    if config.section is not None:
        calls, rows = config.section.demand(limits, request, share)
    else:
        calls, rows = _plan_and_rule(config, int(share * limits.longest), request, share)
    return Demand(
        [call._replace(requests=prompts * call.requests) for call in calls],
        [kind._replace(number=prompts * kind.number) for kind in rows],
    )


def _plan_and_rule(config: TrainConfig, completion: int, request: int, share: float) -> Demand:
    plan = config.group_plan()
    again = int(share * completion) if plan.resets else 0
    fresh = Call("fresh", 1, plan.fresh or plan.resets, 0, completion)
    reset = Call("reset", plan.resets, plan.per_reset, completion - again, again)
    calls, rows = [fresh], [fresh.rows] if plan.fresh else []
    if asks(config):
        asked = fresh.samples if plan.choice == "deepest" else plan.resets
        reply = int(share * config.localization.max_tokens)
        calls.append(Call("localization", asked, 1, completion + request, reply))
    if plan.resets:
        calls.append(reset)
        rows.append(reset.rows)
    return Demand(calls, rows)


def evaluation(config: TrainConfig, share: float = 1.0) -> Call:
    """The generate call of an evaluation, which is not in each step."""
    options, completion = config.evaluation, int(share * config.sampling.limits().longest)
    return Call("evaluation", options.problems, options.samples, 0, completion)


def rounds(config: TrainConfig, share: float = 1.0) -> float:
    """How often a step generates, as a multiple of `demand`: more than once to replace prompts."""
    return sum(share**number for number in range(config.dynamic_sampling + 1))


def asks(config: TrainConfig) -> bool:
    """Whether the model is asked to localize."""
    resets = config.group_plan().resets
    return config.needs("localizer") and config.localizer == "prompted" and resets > 0
