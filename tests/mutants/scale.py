"""Faults in tasks, verifiers, baselines, evaluation, plans of memory, and the way into TRL."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DATA = ("tests/llm/tasks",)
ANSWERS = ("tests/llm/verifiers/test_answers.py",)
SANDBOX = ("tests/llm/verifiers/test_sandbox.py", "tests/llm/verifiers/test_programs.py")
SCORE = ("tests/llm/baselines/test_score.py",)
CRITIQUE = ("tests/llm/baselines/test_critique_grpo.py", "tests/llm/baselines/test_rows.py")
TREE = ("tests/llm/baselines/test_spo_tree.py",)
EVALUATE = ("tests/llm/test_evaluate.py", "tests/llm/test_correction.py")
TRL = ("tests/llm/trl_adapter",)
GPU = ("tests/llm/test_determinism.py",)

SCALE = (
    Mutant(
        "llm/tasks/data_task.py",
        "training problems may be test problems",
        "if held_out and key in held_out:",
        "if held_out and key in ():",
        DATA,
    ),
    Mutant(
        "llm/tasks/data_task.py",
        "problems that differ in blanks are different ones",
        'return " ".join(unicodedata.normalize("NFKC", text).casefold().split())',
        "return text",
        DATA,
    ),
    Mutant(
        "llm/tasks/data_task.py",
        "problems in the order of the file",
        "for i in np.random.default_rng(self.declaration.seed).permutation(len(chosen)):",
        "for i in range(len(chosen)):",
        DATA,
    ),
    Mutant(
        "llm/tasks/checked.py",
        "a verdict may be missing",
        "if len(verdicts) != len(completions):",
        "if len(verdicts) > len(completions):",
        DATA,
    ),
    Mutant(
        "llm/verifiers/numeric.py",
        "a million is 999,999",
        "relative: float = 1e-12",
        "relative: float = 1e-5",
        ANSWERS,
    ),
    Mutant(
        "llm/verifiers/numeric.py",
        "5 6 is 56",
        'text = re.sub(r"(?<![\\w.]) | (?![\\w.])", "", text)',
        'text = text.replace(" ", "")',
        ANSWERS,
    ),
    Mutant(
        "llm/verifiers/code_blocks.py",
        "a fence is read in quadratic time",
        r"(?P<language>[\w+#.-]*+)[^\n`]*+$",
        r"(?P<language>[\w+#.-]*)[^\n`]*$",
        ("tests/llm/verifiers/test_degenerate.py",),
    ),
    Mutant(
        "llm/verifiers/programs.py",
        "a program that spins is run on all its tests",
        "or used_up == MOST_USED_UP:",
        "or used_up < 0:",
        SANDBOX,
    ),
    Mutant(
        "llm/tasks/source.py",
        "long whole numbers are rounded",
        "return exact if rounded or read != exact else None",
        "return exact if read != exact else None",
        DATA,
    ),
    Mutant(
        "llm/verifiers/sandbox.py",
        "no limit of processes",
        '"NPROC": processes,',
        '"NPROC": 10_000,',
        SANDBOX,
    ),
    Mutant(
        "llm/verifiers/sandbox.py",
        "programs see the environment",
        'env=environment(folder or "/tmp") | {MARK: nonce},',
        'env={**os.environ, **environment(folder or "/tmp"), MARK: nonce},',
        SANDBOX,
    ),
    Mutant(
        "llm/thoughts.py",
        "what could not be judged counts as judged",
        "for example, v in told if v.failure]",
        "for example, v in told if not v.failure]",
        DATA,
    ),
    Mutant(
        "llm/baselines/score.py",
        "no bonus for getting better",
        "r + options.alpha * gain",
        "r + 0 * gain",
        SCORE,
    ),
    Mutant(
        "llm/baselines/score.py",
        "stage I holds the second attempts",
        "if i < held else r",
        "if i >= held else r",
        SCORE,
    ),
    Mutant(
        "llm/baselines/score.py",
        "stage I trains the first attempts",
        "of_first = [np.zeros_like(advantages) for advantages in of_first]",
        "of_first = [advantages for advantages in of_first]",
        SCORE,
    ),
    Mutant(
        "llm/baselines/critique_grpo.py",
        "the worst refinements are kept",
        "key=lambda episode: -episode.ret",
        "key=lambda episode: episode.ret",
        CRITIQUE,
    ),
    Mutant(
        "llm/baselines/critique_grpo.py",
        "refinements are not in the ledger",
        "ledger.generated(episodes, trained=False)",
        "pass",
        CRITIQUE,
    ),
    Mutant(
        "llm/baselines/spo_tree.py",
        "the mask keeps what was certain",
        "mask = np.exp(row.logprobs) < rho",
        "mask = np.exp(row.logprobs) >= rho",
        TREE,
    ),
    Mutant(
        "llm/dynamic_sampling.py",
        "what was left out counts as trained",
        "ledger.trained_episodes -= len(group.episodes)",
        "ledger.trained_episodes -= 0",
    ),
    Mutant(
        "llm/dynamic_sampling.py",
        "prompts without a signal first",
        "kept = [*loud, *silent[:lacking]]",
        "kept = [*silent, *loud][: len(chosen)]",
    ),
    Mutant(
        "llm/correction.py",
        "fresh attempts cost their own tokens only when right",
        "comb(n - 1 - (c - int(x)), j)",
        "comb(n - 1 - c, j)",
        EVALUATE,
    ),
    Mutant(
        "llm/correction.py",
        "localizations are free",
        'spent[here["chain"]] += np.array(here["tokens"]) + np.array(here["localizer_tokens"])',
        'spent[here["chain"]] += np.array(here["tokens"])',
        EVALUATE,
    ),
    Mutant(
        "llm/measurement.py",
        "random numbers of a problem depend on its batch",
        "[stream(seed, SAMPLE, i) for i in numbers],",
        "[stream(seed, SAMPLE, i) for i, _ in enumerate(numbers)],",
        EVALUATE,
    ),
    Mutant(
        "llm/records.py",
        "records of another problem are taken",
        'if (record["id"], record["prompt"]) != (prompt.example.id, prompt_hash(prompt)):',
        'if record["id"] != record["id"]:',
        EVALUATE,
    ),
    Mutant(
        "llm/records.py",
        "records of another answer are taken",
        'if record["problem"] != self.digests[index]:',
        'if record["problem"] != record["problem"]:',
        EVALUATE,
    ),
    Mutant(
        "llm/measurement.py",
        "evaluated on what it was trained on",
        "if _text(example) not in trained]",
        "if _text(example)]",
        EVALUATE,
    ),
    Mutant(
        "llm/trainer.py",
        "a run goes on with other data",
        'if checkpoint.state["problems"] != self.problems:',
        "if False:",
        DATA,
    ),
    Mutant(
        "llm/metrics.py",
        "fallbacks count twice",
        "first = {group.start: group for group in reversed(list(collection))}.values()",
        "first = [group for group in collection if group.seed is None]",
    ),
    Mutant(
        "llm/published.py",
        "whole problems beside shares of tests",
        "and own == paper.verifier_args",
        "",
        EVALUATE,
    ),
    Mutant(
        "llm/planning/memory_plan.py",
        "every GPU holds all the optimizer's state",
        "weights, optimizer = share(footprint.weights), share(footprint.optimizer)",
        "weights, optimizer = share(footprint.weights), footprint.optimizer",
    ),
    Mutant(
        "llm/planning/memory_plan.py",
        "vLLM keeps its memory while it sleeps",
        "stays = 0 if sleeps else engine",
        "stays = engine",
    ),
    Mutant(
        "llm/planning/memory_plan.py",
        "merged weights of several processes are charged to the GPU",
        "return footprint.largest if divided else merged_bytes(footprint)",
        "return merged_bytes(footprint)",
    ),
    Mutant(
        "llm/planning/demand.py",
        "prompts are replaced for nothing",
        "return sum(share**number for number in range(config.dynamic_sampling + 1))",
        "return 1.0",
    ),
    Mutant(
        "llm/baselines/options.py",
        "a second attempt follows the prompt alone",
        'Call("second attempt", self.attempts, 1, length + request, length)',
        'Call("second attempt", self.attempts, 1, 0, length)',
        ("tests/llm/planning/test_demand.py",),
    ),
    Mutant(
        "llm/baselines/options.py",
        "each level of a tree has as many nodes",
        "            nodes *= branches\n",
        "            nodes *= 1\n",
        ("tests/llm/planning/test_demand.py",),
    ),
    Mutant(
        "llm/trl_adapter/rollouts.py",
        "shared prefixes are trained on",
        "[[0] * k + [1] * (len(i) - k)",
        "[[1] * k + [1] * (len(i) - k)",
        TRL,
    ),
    Mutant(
        "llm/export.py",
        "exports keep the base model's top-k",
        "        top_k=0,\n",
        "        top_k=base.top_k,\n",
    ),
    Mutant(
        "llm/export.py",
        "exports stop at the tokenizer's EOS alone",
        "eos_token_id=list(stop_token_ids(tokenizer, task, eos_ids(saved.model))),",
        "eos_token_id=tokenizer.eos_token_id,",
    ),
    Mutant(
        "llm/determinism.py",
        "updates on a GPU need not repeat",
        "torch.use_deterministic_algorithms(True)",
        "torch.use_deterministic_algorithms(False)",
        GPU,
    ),
    Mutant(
        "llm/determinism.py",
        "torch stays deterministic after an update",
        "torch.use_deterministic_algorithms(before[0], warn_only=before[1])",
        "pass",
        GPU,
    ),
)
