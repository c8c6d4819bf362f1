"""Training on data sets through the command, with a chain model and with a chat model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.runs.rollout_records import read_rollouts, rollout_files
from llm.tasks import ChainReasoning
from llm.train.__main__ import main
from tests.llm.small import byte_tokenizer
from tests.llm.tasks.rows import SCHEMAS, write
from tests.llm.training_runs import metrics, train


def chains(folder: Path, options: dict[str, Any]) -> Path:
    """Write a declaration over chain problems that verifies only the result, not the steps."""
    task = ChainReasoning(**options)
    rows = []
    for split in ("train", "test"):
        for example in task.examples(split):  # type: ignore[arg-type]
            value = task.chain.solution(example.data)[-1]
            rows.append({"chain": example.prompt.strip(), "result": f"so it is {value}"})
    write(folder / "chains.jsonl", rows)
    declaration = folder / "chains.yaml"
    declaration.write_text(
        "path: chains.jsonl\nprompt: chain\nanswer: result\nextract: after it is\n"
        "verifier: numeric\nchat: false\ninstruction: ''\ndelimiter: \"\\n\"\nstop: ['}']\n"
        "test: 8\n"
    )
    return declaration


@pytest.mark.parametrize("algorithm", ["grpo", "srpo"])
def test_train__rewards_follow_the_answers_of_a_data_set(
    algorithm: str, chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    task = chains(tmp_path, chain_args)
    more = [f"--task={task}", f"--algorithm={algorithm}", "--localizer=surprisal", "--steps=2"]
    run = tmp_path / "run"
    assert train(chain_base, run, {"train": 20}, *more) == 0
    first, *_, last = metrics(run)
    assert last["step"] == 2 and 0 < last["reward"] < 1
    assert last["verifier/failure_rate"] == first["eval/verifier/failure_rate"] == 0
    assert last["thoughts/mean"] > 1 and last["grad_norm"] > 0
    assert ("reset/reward" in last) == (algorithm == "srpo")
    # Each reward depends on the result only, not on the steps.
    results = {}
    for line in (tmp_path / "chains.jsonl").read_text().splitlines():
        row = json.loads(line)
        results[row["chain"]] = row["result"].split()[-1]
    for file in rollout_files(run).values():
        for record in read_rollouts(file):
            right = f"\\boxed{{{results[str(record['prompt']).strip()]}}}"
            for episode in record["continuations"]:
                boxed = right in "".join(episode["thoughts"])
                assert episode["reward"] == boxed or not episode["thoughts"][-1].endswith("}")


@pytest.mark.parametrize("change", ["a row less", "another answer"])
def test_resume__changed_data_are_refused(
    change: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    task, run = chains(tmp_path, chain_args), tmp_path / "run"
    more = [f"--task={task}", "--algorithm=grpo", "--evaluation.steps=0"]
    assert train(chain_base, run, {}, *more, "--steps=1") == 0
    assert train(chain_base, run, {}, *more, "--steps=2", "--resume=auto") == 0
    data = tmp_path / "chains.jsonl"
    rows = data.read_text().splitlines(keepends=True)
    if change == "a row less":
        data.write_text("".join(rows[1:]))
    else:
        data.write_text("".join(rows).replace("so it is 1", "so it is 2"))
    capfd.readouterr()
    assert train(chain_base, run, {}, *more, "--steps=3", "--resume=auto") == 2
    assert "their data have changed; put them back" in capfd.readouterr().err
    assert [record["step"] for record in metrics(run)] == [1, 2]


def save_chat_model(folder: Path) -> Path:
    """Save a randomly initialised model with byte tokens and a chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat_model"))


def chat(model: Path, folder: Path, *more: str) -> int:
    """Train on grade-school problems; `more` overrides the options."""
    make, _, _ = SCHEMAS["gsm8k"]
    data = write(folder / "sums.parquet", [make(i) for i in range(12)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return main(
            [
                f"--model={model}",
                f"--output={folder / 'run'}",
                "--task=gsm8k",
                f"--task_args.path={data}",
                "--task_args.test=4",
                "--steps=4",
                "--prompts_per_step=2",
                "--sampling.max_completion_length=12",
                "--localization.max_tokens=4",
                "--evaluation.steps=0",
                *more,
            ]
        )
    finally:
        torch.set_num_threads(threads)


def test_train__warns_if_no_completion_has_the_delimiter(
    chat_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat(chat_model, tmp_path) == 0
    printed = capfd.readouterr()
    warning = "warning: in 3 steps no completion had the delimiter '</thought>'"
    assert (printed.out + printed.err).count(warning) == 1
    for line in metrics(tmp_path / "run"):
        assert (line["thoughts/mean"], line["verifier/failure_rate"], line["reward"]) == (1, 0, 0)


def test_train__custom_delimiter_splits_thoughts(
    chat_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The model samples random bytes, of which some are the letter a.
    assert chat(chat_model, tmp_path, "--task_args.delimiter=a", "--steps=3") == 0
    printed = capfd.readouterr()
    assert "no completion had the delimiter" not in printed.out + printed.err
    assert any(line["thoughts/mean"] > 1 for line in metrics(tmp_path / "run"))
    # Random bytes do not name a step either.
    warning = "in 3 steps 100% of the localizer's replies named no step"
    assert (printed.out + printed.err).count(warning) == 1


def test_train__bad_data_are_one_line_of_error(
    chat_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"question": "1?", "answer": "#### 1"}\n{"question"\n')
    assert chat(chat_model, tmp_path, f"--task_args.path={broken}") in (1, 2)
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) == 1
    start = f"python -m llm.train: task: {broken} cannot be read as json, row 2: Expecting"
    assert printed.startswith(start)


def test_train__a_model_without_chat_template_is_refused(
    chain_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat(chain_base, tmp_path) in (1, 2)
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) == 1
    assert (
        "has no chat template; use a chat model, or a task with plain prompts (--task_" in printed
    )
