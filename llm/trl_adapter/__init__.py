r"""SRPO, RRPO and oracle resets in TRL's `GRPOTrainer`, through its `rollout_func` hook (TRL 1.16).

A script that trains with GRPO changes in three places, marked here::

    from datasets import load_dataset
    from trl import GRPOConfig, GRPOTrainer

    from llm.trl_adapter import ResetRollouts


    def correct(completions, answer, **columns):
        return [float(text.endswith(right)) for text, right in zip(completions, answer)]


    problems = load_dataset("json", data_files="problems.jsonl", split="train")
    resets = ResetRollouts("srpo", localizer="prompted", delimiter="\n")  # 1
    trainer = GRPOTrainer(
        model="model",
        reward_funcs=correct,
        args=GRPOConfig(num_generations=4, shuffle_dataset=False),  # 2
        train_dataset=resets.dataset(problems, seed=0),  # 3: shuffled, two rows a prompt
        rollout_func=resets,
    )
    trainer.train()

Each prompt gets two groups: 4 fresh completions, and 4 continuations of one failed completion. The
continuations start where the current policy locates the first error. TRL normalizes advantages
within each group, as in GRPO. The shared prefix of the second group is masked by TRL's `env_mask`.
It is left out of loss, KL and entropy bonus, so its gradient is exactly zero. For a prompt without
a failure, the second group is fresh as well.

Reward functions run twice: once to find failures, and once in TRL on the completions to train on.
TRL's metrics gain `reset/*`, `fresh/reward` and `localize/*` (see `llm.algorithms.metrics` and
`llm.resets.quality`), and the cumulative costs `ledger/*` (see `cpi.Ledger`). TRL's completion
lengths and `num_tokens` leave out shared prefixes.

Each process samples for its own prompts from the model in training. An engine of this package can
replace it (`engine=VLLMEngine("model")`); TRL's own vLLM is refused. Tested: Transformers and
`VLLMEngine` on a CPU, LoRA, and two processes under DDP. FSDP and DeepSpeed are refused.
"""

from __future__ import annotations

from llm.trl_adapter.rollouts import ResetRollouts

__all__ = ["ResetRollouts"]
