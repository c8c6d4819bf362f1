"""`python -m llm.export RUN`: export a run's checkpoint as a Hugging Face model.

Adapters are merged, or written alone. Before the folder gets its final name, plain Transformers
loads it, and its log-probs are compared with the run's policy. An existing folder is therefore
complete and verified.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpi.reporting.options import underscored
from cpi.reporting.tables import console
from llm.common.commands import leave, prepare, quiet_transformers, run_command
from llm.export import hub
from llm.export.check import (
    PROMPTS,
    check_tokenizer,
    compare,
    load,
    probe,
    scores,
)

if TYPE_CHECKING:
    import torch

    from llm.config.train import TrainConfig
    from llm.runs.saved_model import SavedModel
    from llm.tasks import Task

PROG = "python -m llm.export"

DTYPES = ("float32", "bfloat16", "float16")

EPILOG = """\
examples:
  python -m llm.export runs/chain-srpo-s0                    to runs/chain-srpo-s0/export/step-…
  python -m llm.export runs/lora --adapter --out my-adapter
  python -m llm.export runs/lora --dtype bfloat16 --out my-model
  python -m llm.export runs/lora --push_to_hub me/my-model --private

The folder has weights (safetensors; adapters merged, unless --adapter), the run's tokenizer, a
generation config that samples and stops as the run did, and a model card. The card describes the
training and lists the results of the run and of `llm.evaluate`, so evaluate first. Before the
folder gets its name, plain Transformers loads it; tokens and log-probs must equal those of the
run's policy. Exit codes: 0 done, 1 the written model differs or was not uploaded, 2 bad input."""


@dataclass(frozen=True)
class Exported:
    """Result of `export`: folder, dtype, and mean and maximum log-prob difference in nats."""

    folder: Path
    dtype: str
    mean: float
    max: float


def export(
    saved: SavedModel,
    out: Path,
    *,
    adapter: bool = False,
    dtype: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Exported:
    """Write a run's checkpoint as a model folder, atomically.

    Parameters
    ----------
    saved : SavedModel
        A run's checkpoint, from `llm.runs.saved_model.find_model`.
    out : Path
    adapter : bool
        Write only the LoRA adapters.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Dtype of the weights; by default the checkpoint's, without rounding.
    force : bool
        Replace an existing model in `out`.
    progress : function of str
        Receives a message at each stage.

    Raises
    ------
    ValueError, OSError, llm.runs.checkpoints.CheckpointError
        If an input is invalid, or a file cannot be read or written.
    ExportError
        If the written model differs from the run's policy.
    """
    import torch

    from llm.export.model_card import model_card
    from llm.models.policy import (
        default_device,
        load_tokenizer,
        trainable,
        use_bf16,
    )
    from llm.runs import checkpoints
    from llm.tasks import checked, make_task
    from llm.thoughts.simulator import Prompt, encode

    config = check_run(saved, adapter)
    assert saved.checkpoint is not None
    check_out(out, saved, force)
    task = make_task(config.task, **config.task_args)
    progress(f"loading step {saved.step}")
    device = default_device()
    tokenizer = load_tokenizer(saved.model)
    policy = saved.policy(device, use_bf16(config.bf16, device))
    weights = next(iter(trainable(policy).values())).dtype if dtype is None else dtype
    target: torch.dtype = getattr(torch, weights) if isinstance(weights, str) else weights
    examples = [e for split in ("test", "train") for e in checked.examples(task, split)]
    prompts = [
        Prompt(encode(tokenizer, e.prompt, task.chat_template_kwargs), e)
        for e in examples[:PROMPTS]
    ]
    probes = [probe(policy, prompt.ids) for prompt in prompts]
    expected = [scores(policy, ids) for ids in probes]
    # Adapters are exported without their base, which must be loaded in the run's dtype.
    base = next(p.dtype for p in policy.parameters() if not adapter or not p.requires_grad)
    loaded = base if adapter else target
    exact = base == target == torch.float32

    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        progress("writing")
        if adapter:
            write_adapter(policy, part, target)
        else:
            write_merged(policy, part, target, saved, task, tokenizer)
        tokenizer.save_pretrained(part)
        del policy
        progress("loading the written model")
        check_tokenizer(part, tokenizer, prompts, task.chat_template_kwargs)
        model = load(part, adapter, loaded).to(device)
        actual = [scores(model, ids) for ids in probes]
        mean, largest = compare(expected, actual, exact)
        state = checkpoints.load(saved.checkpoint, []).state
        name = str(target).removeprefix("torch.")
        card = model_card(
            saved, state, adapter=adapter, dtype=name, loaded=str(loaded).removeprefix("torch."),
            prompt=examples[0].prompt, variables=task.chat_template_kwargs,
        )  # fmt: skip
        (part / "README.md").write_text(card, encoding="utf-8")
        for file in part.iterdir():
            # safetensors files are private; the user's umask decides, as for the card.
            file.chmod((part / "README.md").stat().st_mode)
        replace(part, out)
    except BaseException:  # on Ctrl-C as well
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Exported(out, name, mean, largest)


def check_out(out: Path, saved: SavedModel, force: bool) -> None:
    """Refuse, before any work, an output folder that would destroy data or cannot be made.

    Raises
    ------
    ValueError
        If the folder cannot be used; the message names a cure.
    """
    target = out.absolute().resolve()
    for name, folder in (("the run", saved.run), ("the base model", Path(saved.model))):
        protected = folder.absolute().resolve()
        if target == protected or target in protected.parents:
            raise ValueError(f"out: {out} is, or holds, the folder of {name}; choose another")
    if target.parent == (saved.run / "checkpoints").absolute().resolve():
        raise ValueError(f"out: {out} is among the run's checkpoints; choose another")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"out: {out} cannot be made, {parent} is a file; choose another")
    if not out.exists() or not any(out.iterdir()):
        return
    if not force:
        raise ValueError(
            f"out: {out} is not empty; choose another, or --force (force=True) replaces it"
        )
    if not any((out / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(
            f"out: {out} holds no model, and --force replaces nothing else; delete it yourself, or "
            "choose another"
        )


def replace(part: Path, out: Path) -> None:
    """Rename the written folder to its final name, in place of an older one."""
    if not out.exists():
        part.rename(out)
        return
    old = out.with_name(out.name + ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    part.rename(out)
    shutil.rmtree(old)


def write_adapter(policy: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write the adapters alone."""
    from llm.models.policy import trainable

    for adapters in policy.peft_config.values():
        base = Path(adapters.base_model_name_or_path)
        if base.is_dir():  # a relative path would hold in the current folder only
            adapters.base_model_name_or_path = str(base.absolute())
    for parameter in trainable(policy).values():
        parameter.data = parameter.data.to(dtype)
    policy.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card; the model card replaces it


def write_merged(
    policy: Any, folder: Path, dtype: torch.dtype, saved: SavedModel, task: Task, tokenizer: Any
) -> None:
    """Write all weights, and the generation config."""
    from peft import PeftModel
    from transformers import AutoConfig

    from llm.models.policy import merged_state_dict

    state = merged_state_dict(policy, dtype)
    # PEFT's own merge would round to the base's dtype; `merged_state_dict` merges in float32.
    model = policy.unload() if isinstance(policy, PeftModel) else policy
    model.to(dtype).load_state_dict(state)
    model.config = AutoConfig.from_pretrained(saved.model)  # with its cache and its dropout
    model.generation_config = generation_config(model.generation_config, saved, task, tokenizer)
    model.save_pretrained(folder)


def generation_config(base: Any, saved: SavedModel, task: Task, tokenizer: Any) -> Any:
    """Generation config with the run's sampling and stop tokens.

    The base model's own repetition penalty or top-k is dropped, as it would change the policy.
    """
    from transformers import GenerationConfig

    from llm.runs.saved_model import eos_ids
    from llm.thoughts.simulator import stop_token_ids

    assert saved.config is not None
    sampling = saved.config.sampling
    return GenerationConfig(
        bos_token_id=base.bos_token_id,
        pad_token_id=base.pad_token_id,
        eos_token_id=list(stop_token_ids(tokenizer, task, eos_ids(saved.model))),
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        max_new_tokens=sampling.max_completion_length,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    args = make_parser().parse_args(underscored(argv))
    return run_command(PROG, lambda: _export(args), lambda: "interrupted, nothing is written")


def _export(args: argparse.Namespace) -> int:
    """Write the model; returns the exit code."""
    from llm.runs.saved_model import find_model

    err = console(sys.stderr)
    saved = find_model(args.run, args.step)
    check_run(saved, args.adapter)
    if args.push_to_hub:
        hub.check_name(args.push_to_hub)
    elif args.private:
        raise ValueError("private: nothing is uploaded; give --push_to_hub NAME")
    quiet_transformers()
    out = Path(args.out).expanduser() if args.out else default_out(saved, args.adapter)
    done = export(
        saved, out, adapter=args.adapter, dtype=args.dtype, force=args.force,
        progress=lambda message: err.print(message, markup=False),
    )  # fmt: skip
    size = sum(file.stat().st_size for file in done.folder.iterdir())
    out_console = console()
    out_console.print(
        f"parity ok: |Δ log-prob| to the run's policy, mean {done.mean:.1e}, max "
        f"{done.max:.1e} nats"
    )
    out_console.print(f"{done.dtype}, {size / 1e6:,.1f} MB, in {done.folder}", markup=False)
    if args.push_to_hub:
        err.print("uploading")
        message = f"Step {saved.step} of {saved.run.absolute().name}"
        address = hub.push(done.folder, args.push_to_hub, message, args.private)
        out_console.print(f"uploaded to {address}", markup=False)
    return 0


def check_run(saved: SavedModel, adapter: bool) -> TrainConfig:
    """Refuse a model that is no training run; returns the settings of the run.

    Raises
    ------
    ValueError
        If it is no run, or has no adapters where they are wanted.
    """
    config = saved.config
    if config is None or saved.checkpoint is None:
        raise ValueError(f"{saved.name} is no training run: it has no config.yaml; name a run")
    if adapter and not config.lora.r:
        raise ValueError(
            f"adapter: {saved.name} has none, it trained all weights (lora.r 0); leave it out"
        )
    return config


def default_out(saved: SavedModel, adapter: bool) -> Path:
    """Default output: a folder of the run, named by step."""
    step = saved.step or 0
    return saved.run / "export" / (f"step-{step:06d}" + ("-adapter" if adapter else ""))


def make_parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=PROG,
        description="Write a training run's checkpoint as a Hugging Face model: weights, "
        "tokenizer, generation config, model card.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder")
    add("--step", type=int, metavar="N", help="step of the checkpoint (default: the newest)")
    add("--adapter", action="store_true", help="write only the LoRA adapters, unmerged")
    add(
        "--out",
        metavar="DIR",
        help="output folder (default: RUN/export/step-N, or step-N-adapter)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: the checkpoint's, without rounding)",
    )
    add("--force", action="store_true", help="replace an existing model in DIR")
    add("--push_to_hub", metavar="NAME", help="then upload it to the hub, as USER/MODEL")
    add("--private", action="store_true", help="a model that the upload makes is private")
    return parser


if __name__ == "__main__":
    leave(main())
