"""`python -m llm.export`: the written model is the run's, whoever loads it, or is not written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cpi.core.collect import Ledger
from cpi.core.plans import ALGORITHMS
from envs.reasoning import ChainTask
from llm.algorithms import about
from llm.chain.model import chain_tokenizer
from llm.config.algorithms import CLASSES
from llm.evaluate import __main__ as evaluate
from llm.export.__main__ import main
from llm.export.check import ExportError, check_tokenizer, compare
from llm.export.model_card import model_card
from llm.models import policy as models
from llm.runs.checkpoints import complete, load
from llm.runs.saved_model import find_model
from llm.tasks import ChainReasoning, Example
from llm.thoughts.simulator import Prompt, encode
from tests.llm.small import byte_tokenizer, dense_logprobs
from tests.llm.training_runs import train

CPU = torch.device("cpu")

#: A chat template, for a tokenizer that has one.
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads gain nothing at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["full", "lora"])
def any_run(
    request: pytest.FixtureRequest,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    more = ["--steps=3", "--sampling.temperature=0.9", "--evaluation.samples=2"]
    if request.param == "lora":
        more += ["--lora.r=4", "--lora.alpha=8", "--optimizer.learning_rate=2e-2"]
    assert train(chain_base, folder, chain_args, *more) == 0
    return folder


@pytest.fixture(scope="module")
def run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    more = ["--steps=2", "--evaluation.steps=0", "--lora.r=2", "--optimizer.learning_rate=2e-2"]
    more += ["--sampling.top_p=0.95"]
    assert train(chain_base, folder, chain_args, *more) == 0
    return folder


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *CLASSES])
def test_every_algorithm_has_a_card(run: Path, algorithm: str) -> None:
    saved = find_model(str(run))
    assert saved.config is not None
    sampling = replace(saved.config.sampling, max_completion_length=256)
    saved = replace(saved, config=replace(saved.config, algorithm=algorithm, sampling=sampling))
    state = {"ledger": asdict(Ledger())}
    card = model_card(
        saved, state, adapter=True, dtype="float32", loaded="float32", prompt="1 + 1", variables={}
    )
    assert ("at most 4 times" in card) == (algorithm == "adaptive")
    assert about(saved.config) in card and ("2605.25507" in card) == (algorithm in ALGORITHMS)


@pytest.mark.parametrize(
    "damaged", [b"[1]\n", b'{"a": "\xc3', b'{"results": [{}]}\n', b"[{}]", b""]
)
def test_model_card__leaves_damaged_files_out(damaged: bytes, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    good = json.dumps({"step": 0, "eval/pass@1": 0.125}).encode()
    (folder / "metrics.jsonl").write_bytes(good + b"\n" + damaged)
    (folder / "environment.json").write_bytes(damaged)
    results = folder / "evaluations" / "step-000002" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_bytes(damaged)
    state = {"ledger": asdict(Ledger())}
    card = model_card(
        find_model(str(folder)),
        state,
        adapter=True,
        dtype="float32",
        loaded="float32",
        prompt="1",
        variables={},
    )
    assert "0.125" in card


def texts(run: Path) -> list[str]:
    """Prompts with their solutions."""
    config = find_model(str(run)).config
    assert config is not None
    task = ChainReasoning(**config.task_args)
    return [e.prompt + "".join(task.solution(e)) for e in task.examples("test")]


def same(run: Path, step: int, model: Any, tokenizer: Any) -> float:
    """The largest difference of log-probs between a model and the run's policy."""
    policy = find_model(str(run), step).policy(CPU)
    own = AutoTokenizer.from_pretrained(find_model(str(run)).model)
    worst = 0.0
    for text in texts(run):
        ids = tokenizer(text).input_ids
        assert ids == own(text).input_ids
        off = dense_logprobs(model, ids) - dense_logprobs(policy, ids)
        worst = max(worst, float(off.detach().abs().max()))
    return worst


def header(folder: Path) -> dict[str, Any]:
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    return dict(yaml.safe_load(text))


def test_plain_transformers_loads_the_runs_policy(
    any_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(any_run), "--samples=4", "--greedy"]) == 0
    out = any_run / "export" / "step-000003"
    assert main([str(any_run)]) == 0
    told = capsys.readouterr().out
    assert "parity ok" in told and str(out) in told and "float32" in told
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32 and model.config.use_cache
    assert same(any_run, 3, model, tokenizer) < 1e-5
    assert same(any_run, 0, model, tokenizer) > 1e-2  # a step is not another

    # It stops where the run's episodes stop, and its greedy answers are those of the evaluation.
    file = any_run / "evaluations" / "step-000003" / "chain-greedy.jsonl"
    for record, text in zip(file.read_text().splitlines()[1:], texts(any_run), strict=True):
        inputs = tokenizer(text.partition("\n")[0] + "\n", return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None)
        answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == json.loads(record)["completions"][0]
    g = model.generation_config
    assert (g.do_sample, g.temperature, g.top_p, g.top_k) == (True, 0.9, 1.0, 0)
    assert tokenizer.convert_tokens_to_ids("}") in g.eos_token_id

    # And it can be evaluated like any model.
    config = find_model(str(any_run)).config
    assert config is not None
    words = [f"{name}={json.dumps(value)}" for name, value in config.task_args.items()]
    again = any_run / "again"
    flags = [f"--sampling.{name}={value}" for name, value in asdict(config.sampling).items()]
    args = [str(out), "--samples=4", f"--output={again}", *flags, "--tasks", "chain", *words]
    assert evaluate.main(args) == 0
    (path,) = again.glob("chain*.jsonl")
    first = any_run / "evaluations" / "step-000003" / "chain-sampled.jsonl"
    assert path.read_text().splitlines()[1:] == first.read_text().splitlines()[1:]


def test_the_card_tells_the_run(any_run: Path, tmp_path: Path) -> None:
    assert evaluate.main([str(any_run), "--step=2", "--samples=4"]) == 0
    assert main([str(any_run), "--step=2", f"--out={tmp_path / 'model'}"]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    lora = "lora" in str(any_run.parent)
    found = header(tmp_path / "model")
    assert found["library_name"] == "transformers" and "license" not in found
    assert found["base_model"] == Path(find_model(str(any_run)).model).name
    assert found["tags"] == ["credit-resets", "reinforcement-learning", "srpo"]
    state = load(complete(any_run / "checkpoints")[2], []).state
    ledger = state["ledger"]
    assert f"| tokens trained on | {ledger['trained_steps']:,} |" in card
    assert f"{ledger['steps']:,}, and {ledger['localizer_cost']:,} to localize" in card
    assert "| steps | 2 of 3, 8 prompts each |" in card
    assert ("| weights | LoRA, rank 4; here float32 |" in card) == lora
    rows = [json.loads(line) for line in (any_run / "metrics.jsonl").read_text().splitlines()]
    first, second = rows[0]["eval/pass@1"], rows[2]["eval/pass@1"]
    assert f"| pass@1 | {first:.3f} | {second:.3f} |" in card and "step 3" not in card
    results = json.loads((any_run / "evaluations" / "step-000002" / "results.json").read_text())
    assert f"pass@4 {results['results'][0]['pass_at']['4']['value']:.3f} [" in card
    environment = json.loads((any_run / "environment.json").read_text())[-1]
    commit = environment["commit"]  # None where the project is no checkout
    assert commit is None or commit in card
    assert environment["versions"]["torch"] in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings["sampling"]["temperature"] == 0.9 and settings["output"] == ""
    assert str(any_run) not in card and str(Path(find_model(str(any_run)).model).parent) not in card
    # The code in it runs.
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace('folder = "."', f"folder = {str(tmp_path / 'model')!r}"), {})


def test_adapters_alone(run: Path, chain_base: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    assert main([str(run), "--adapter"]) == 0
    out = run / "export" / "step-000002-adapter"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    model = AutoPeftModelForCausalLM.from_pretrained(out).eval()
    assert same(run, 2, model, AutoTokenizer.from_pretrained(out)) < 1e-5
    assert header(out)["library_name"] == "peft"
    with pytest.raises(ValueError, match="holds adapters without their base model; name the run"):
        find_model(str(out))
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "AutoPeftModelForCausalLM" in code
    exec(code.replace("**inputs", "**inputs, max_new_tokens=5").replace('"."', repr(str(out))), {})
    own = load(complete(run / "checkpoints")[2], ["model"]).tensors["model"]
    written = load_file(out / "adapter_model.safetensors")
    assert len(written) == len(own)
    for name, tensor in written.items():
        assert torch.equal(tensor, own[name.replace(".weight", ".default.weight")])
    assert main([str(run), "--adapter", "--dtype=bfloat16", f"--out={tmp_path / 'half'}"]) == 0
    half = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes(dtype: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / dtype
    assert main([str(run), f"--dtype={dtype}", f"--out={out}"]) == 0
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    assert model.dtype == getattr(torch, dtype)
    worst = same(run, 2, model.float(), AutoTokenizer.from_pretrained(out))
    assert 0 < worst < 0.5


def test_our_own_base_has_our_licence(chain_args: dict[str, Any], tmp_path: Path) -> None:
    task = {"test": 4, "train": 8}
    more = ["--steps=1", "--evaluation.steps=0"]
    assert train(Path("chain-base"), tmp_path / "run", task, *more) == 0
    assert main([str(tmp_path / "run")]) == 0
    found = header(tmp_path / "run" / "export" / "step-000001")
    assert (found["base_model"], found["license"]) == ("chain-base", "mit")


def test_adapters_of_a_base_that_is_stored_in_bfloat16(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    more = ["--steps=1", "--evaluation.steps=0", "--lora.r=2", "--optimizer.learning_rate=2e-2"]
    run = tmp_path / "run"
    assert train(Path("chain-base"), run, {"test": 4, "train": 8}, *more) == 0
    assert main([str(run), "--adapter"]) == 0
    out = run / "export" / "step-000001-adapter"
    # The run had it in float32, which plain loading does not give.
    assert 'from_pretrained(folder, dtype="float32")' in (out / "README.md").read_text()
    model = AutoPeftModelForCausalLM.from_pretrained(out, dtype="float32").eval()
    assert same(run, 1, model, AutoTokenizer.from_pretrained(out)) < 1e-5


@pytest.mark.parametrize(
    ("text", "license_"),
    [("---\nlicense: apache-2.0\n---\n# A", "apache-2.0"), ("# A", None), ("---\n[\n---", None),
     ("---", None), ("---\n- a\n---\n", None)],
)  # fmt: skip
def test_a_base_models_licence_is_its_cards(
    text: str, license_: str | None, run: Path, chain_base: Path, tmp_path: Path
) -> None:
    from llm.export.model_card import license_of

    (tmp_path / "README.md").write_text(text)
    assert license_of(replace(find_model(str(run)), model=str(tmp_path))) == license_


# --- nothing or all ---


def test_a_folder_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    args = [str(run), f"--out={out}"]
    assert main(args) == 0  # empty
    (out / "mine.txt").write_text("x")
    assert main(args) == 2
    assert "is not empty; choose another, or --force" in capsys.readouterr().err
    assert main([*args, "--step=1", "--force"]) == 0
    assert not (out / "mine.txt").exists() and "step 1" in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("x")
    for bad, message in {
        home: "holds no model, and --force replaces nothing else",
        home / "thesis.tex" / "model": "is a file",
        run: "the folder of the run",
        run.parent: "the folder of the run",
        Path(find_model(str(run)).model): "the folder of the base model",
        run / "checkpoints" / "model": "is among the run's checkpoints",
    }.items():
        assert main([str(run), f"--out={bad}", "--force"]) == 2
        assert message in capsys.readouterr().err
    assert (home / "thesis.tex").read_text() == "x"


def test_what_a_kill_left_goes(run: Path, tmp_path: Path) -> None:
    for name in ("model.part", "model.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    args = [str(run), f"--out={tmp_path / 'model'}"]
    assert main(args) == 0 and main([*args, "--force"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "half").exists()


def forgetful(policy: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A merge without the adapters."""
    for name, parameter in models.trainable(policy).items():
        if "lora_B" in name:
            parameter.data.zero_()
    return MERGE(policy, dtype)


def fails(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


MERGE = models.merged_state_dict
CARD = "llm.export.model_card.model_card"

FAULTS: dict[str, tuple[str, Callable[..., Any], int, str]] = {
    "another model": ("llm.models.policy.merged_state_dict", forgetful, 1, "nothing is exported"),
    "full disk": (CARD, fails(OSError("no space left")), 2, "no space left"),
    "ctrl-c": (CARD, fails(KeyboardInterrupt()), 130, "interrupted, nothing is written"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_written_where_something_is_wrong(
    name: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, fault, code, message = FAULTS[name]
    monkeypatch.setattr(place, fault)
    assert main([str(run), f"--out={tmp_path / 'model'}"]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_log_probs_that_are_off_are_refused() -> None:
    one = [torch.zeros(10)]
    assert compare(one, [torch.full((10,), 1e-6)], True) == pytest.approx((1e-6, 1e-6))
    for off, exact in ((1e-3, True), (0.1, False), (float("nan"), False), (float("nan"), True)):
        with pytest.raises(ExportError, match="nothing is exported"):
            compare(one, [torch.full((10,), off)], exact)
    compare(one, [torch.full((10,), 1e-3)], False)


def test_tokenizers_come_back_as_they_were(tmp_path: Path, run: Path) -> None:
    chat = byte_tokenizer()
    chat.chat_template = CHAT
    messages = [{"role": "user", "content": "Zwölf + 3?"}]

    def prompts(tokenizer: Any) -> list[Prompt]:
        return [Prompt(encode(tokenizer, messages), Example("a", messages))]

    chat.save_pretrained(tmp_path / "same")
    check_tokenizer(tmp_path / "same", chat, prompts(chat))
    other = byte_tokenizer()
    other.chat_template = CHAT + "!"
    other.save_pretrained(tmp_path / "template")
    AutoTokenizer.from_pretrained(find_model(str(run)).model).save_pretrained(tmp_path / "words")
    # AutoTokenizer takes Qwen2's own for a model of that type, whatever is saved beside it.
    words = chain_tokenizer(ChainTask(10, ("+3",)))
    words.save_pretrained(tmp_path / "qwen2")
    (tmp_path / "qwen2" / "config.json").write_text('{"model_type": "qwen2"}')
    sums = [Prompt(encode(words, "3 +3\n"), Example("a", "3 +3\n"))]
    for name, tokenizer, seen in (
        ("template", chat, prompts(chat)),
        ("words", chat, prompts(chat)),
        ("qwen2", words, sums),
    ):
        with pytest.raises(ExportError, match="AutoTokenizer reads the written one differently"):
            check_tokenizer(tmp_path / name, tokenizer, seen)
    # What it takes for such a model is what a run on it has seen, and comes back.
    for name, config in {"merged": '{"model_type": "qwen2"}', "adapter": None}.items():
        taken = AutoTokenizer.from_pretrained(tmp_path / "qwen2")
        taken.save_pretrained(tmp_path / name)
        if config:
            (tmp_path / name / "config.json").write_text(config)
        check_tokenizer(
            tmp_path / name, taken, [Prompt(encode(taken, "3 +3\n"), Example("a", "3 +3\n"))]
        )


def test_bad_input_is_one_clear_line(
    run: Path, chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    (full / "config.yaml").write_text(yaml.safe_dump({**config, "lora": {"r": 0}}))
    (full / "checkpoints").symlink_to(run / "checkpoints")
    for arguments, message in [
        ([str(chain_base)], "is no training run: it has no config.yaml; name a run"),
        ([str(run), "--step=9"], "step: 9 is not among the checkpoints of"),
        ([str(full), "--adapter"], "adapter: "),
        ([str(full)], "checkpoint: weights of another architecture"),
    ]:
        assert main(arguments) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("python -m llm.export: ") and message in line


@pytest.mark.vllm
def test_vllm_loads_the_runs_policy(run: Path, tmp_path: Path) -> None:
    from vllm.config import ModelConfig

    from llm.engines import SamplingParams
    from llm.engines.vllm import VLLMEngine

    assert main([str(run), f"--out={tmp_path / 'model'}"]) == 0
    policy = find_model(str(run)).policy(CPU)
    engine = VLLMEngine(tmp_path / "model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        prompts = [tokenizer(text.partition("\n")[0] + "\n").input_ids for text in texts(run)]
        params = [SamplingParams(max_tokens=20, n=4, seed=i) for i in range(len(prompts))]
        answers = engine.generate(prompts, params)
    finally:
        engine.close()
    defaults = ModelConfig(model=str(tmp_path / "model")).get_diff_sampling_param()
    assert defaults == {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_tokens": 40}
    for prompt, completions in zip(prompts, answers, strict=True):
        for completion in completions:
            own = dense_logprobs(policy, [*prompt, *completion.ids])[len(prompt) - 1 :]
            assert np.abs(own.detach().numpy() - completion.logprobs).max() < 1e-4
