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

For each prompt that makes a group of 4 fresh completions, and another of 4 continuations of one
failed completion, from where the current policy sees its first error. TRL compares each group
within itself, as GRPO does. The tokens that the second group shares are in TRL's `env_mask`, which
keeps them out of loss, KL and entropy bonus: they get exactly zero gradient. A prompt without a
failure spends the second group on fresh completions.

TRL scores what it trains on, as ever; each completion is scored once before, to know the failures.
Metrics `reset/*`, `fresh/reward` and `localize/*` (see `llm.algorithms.metrics` and
`llm.resets.quality`) and the running costs `ledger/*` (see `cpi.Ledger`) join TRL's, whose
completion lengths and `num_tokens` leave out shared prefixes.

It samples from the model in training, each process for its own prompts; or, in place of TRL's
vLLM, from an engine of ours (`engine=VLLMEngine("model")`). What has been run: Transformers and our
vLLM engine on a CPU, LoRA, and two processes under DDP. FSDP and DeepSpeed are refused.
"""

from __future__ import annotations

from llm.trl_adapter.rollouts import ResetRollouts

__all__ = ["ResetRollouts"]
