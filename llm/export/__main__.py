"""`python -m llm.export RUN`: a run's checkpoint as a Hugging Face model that others can load.

Adapters are merged, or written alone. What was written is loaded again, by plain Transformers, and
compared with the run's policy before it gets its name: a folder that is there is whole and right.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpi.reporting.tables import console
from llm.common.commands import prepare, quiet_transformers, run_command
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

    from llm.runs.saved_model import SavedModel
    from llm.tasks import Task

PROG = "python -m llm.export"

DTYPES = ("float32", "bfloat16", "float16")

EPILOG = """\
examples:
  python -m llm.export runs/chain-srpo-s0                    to runs/chain-srpo-s0/export/step-…
  python -m llm.export runs/lora --adapter --out my-adapter
  python -m llm.export runs/lora --dtype bfloat16 --out my-model

The folder has weights (safetensors; adapters merged, unless --adapter), the run's tokenizer, a
generation config that samples and stops as the run did, and a model card with what the model was
trained on and how, and what was measured: in the run, and by `llm.evaluate`, so evaluate first.
Before the folder gets its name, it is loaded with plain Transformers and must give the tokens and
the log-probs of the run's policy. Exit codes: 0 done, 1 not the same model, 2 bad input."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: where, in which dtype, and how far log-probs are off (nats)."""

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
    progress: Callable[[str], None] = lambda what: None,
) -> Exported:
    """Write a run's checkpoint as a model folder, all of it or nothing.

    Parameters
    ----------
    saved : Saved
        Of a run, from `llm.runs.saved_model.find`.
    out : Path
    adapter : bool
        Only the LoRA adapters, for the base model.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Of the weights; by default that of the checkpoint, in which nothing is rounded.
    force : bool
        Replace a model that is there.
    progress : function of str

    Raises
    ------
    ValueError, OSError, llm.runs.checkpoints.CheckpointError
        If something is not as it must be.
    ExportError
        If the written model is another one.
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

    config = saved.config
    if config is None or saved.checkpoint is None:
        raise ValueError(f"{saved.name} is no training run: it has no config.yaml; name a run")
    if adapter and not config.lora.r:
        raise ValueError(
            f"adapter: {saved.name} has none, it trained all weights (lora.r 0); leave it out"
        )
    check_out(out, saved, force)
    task = make_task(config.task, **config.task_args)
    quiet_transformers()
    progress(f"loading step {saved.step}")
    device = default_device()
    tokenizer = load_tokenizer(saved.model)
    policy = saved.policy(device, use_bf16(config.bf16, device))
    weights = next(iter(trainable(policy).values())).dtype if dtype is None else dtype
    target: torch.dtype = getattr(torch, weights) if isinstance(weights, str) else weights
    examples = [e for split in ("test", "train") for e in checked.examples(task, split)]
    prompts = [Prompt(encode(tokenizer, e.prompt), e) for e in examples[:PROMPTS]]
    probes = [probe(policy, prompt.ids) for prompt in prompts]
    expected = [scores(policy, ids) for ids in probes]
    # Under adapters the base is not written; it must be loaded in the dtype that the run had it in.
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
        progress("loading it again")
        check_tokenizer(part, tokenizer, prompts)
        model = load(part, adapter, loaded).to(device)
        found = [scores(model, ids) for ids in probes]
        mean, most = compare(expected, found, exact)
        state = checkpoints.load(saved.checkpoint, []).state
        name = str(target).removeprefix("torch.")
        card = model_card(
            saved, state, adapter=adapter, dtype=name, loaded=str(loaded).removeprefix("torch."),
            prompt=examples[0].prompt,
        )  # fmt: skip
        (part / "README.md").write_text(card, encoding="utf-8")
        for file in part.iterdir():
            # safetensors lets nobody else read; do as the user's umask says.
            file.chmod((part / "README.md").stat().st_mode)
        replace(part, out)
    except BaseException:  # on Ctrl-C as well
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Exported(out, name, mean, most)


def check_out(out: Path, saved: SavedModel, force: bool) -> None:
    """Refuse a folder that would be lost, or cannot be made, before any work.

    Raises
    ------
    ValueError
    """
    own = out.absolute().resolve()
    for name, folder in (("the run", saved.run), ("the base model", Path(saved.model))):
        other = folder.absolute().resolve()
        if own == other or own in other.parents:
            raise ValueError(f"out: {out} is, or holds, the folder of {name}; choose another")
    if own.parent == (saved.run / "checkpoints").absolute().resolve():
        raise ValueError(f"out: {out} is among the run's checkpoints; choose another")
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"out: {out} cannot be made, {parent} is a file; choose another")
    if not out.exists() or not any(out.iterdir()):
        return
    if not force:
        raise ValueError(f"out: {out} is not empty; choose another, or --force replaces it")
    if not any((out / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(
            f"out: {out} holds no model, and --force replaces nothing else; delete it yourself, or "
            "choose another"
        )


def replace(part: Path, out: Path) -> None:
    """Give what is written its name."""
    if not out.exists():
        part.rename(out)
        return
    old = out.with_name(out.name + ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    part.rename(out)
    shutil.rmtree(old)


def write_adapter(policy: Any, folder: Path, dtype: torch.dtype) -> None:
    """The adapters alone."""
    from llm.models.policy import trainable

    for adapters in policy.peft_config.values():
        base = Path(adapters.base_model_name_or_path)
        if base.is_dir():  # or they would be found from this folder only
            adapters.base_model_name_or_path = str(base.absolute())
    for parameter in trainable(policy).values():
        parameter.data = parameter.data.to(dtype)
    policy.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's; ours comes


def write_merged(
    policy: Any, folder: Path, dtype: torch.dtype, saved: SavedModel, task: Task, tokenizer: Any
) -> None:
    """All weights, and how to sample from them."""
    from peft import PeftModel
    from transformers import AutoConfig

    from llm.models.policy import merged_state_dict

    state = merged_state_dict(policy, dtype)
    # Unloaded, not merged: that would be done in the dtype of the base.
    model = policy.unload() if isinstance(policy, PeftModel) else policy
    model.to(dtype).load_state_dict(state)
    model.config.use_cache = AutoConfig.from_pretrained(saved.model).use_cache
    model.generation_config = generation_config(model.generation_config, saved, task, tokenizer)
    model.save_pretrained(folder)


def generation_config(base: Any, saved: SavedModel, task: Task, tokenizer: Any) -> Any:
    """How the run sampled and stopped; nothing else of the base model's is kept.

    A repetition penalty or a top-k, which many chat models come with, would be another policy.
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
    args = make_parser().parse_args(argv)
    return run_command(PROG, lambda: _export(args), lambda: "interrupted, nothing is written")


def _export(args: argparse.Namespace) -> int:
    """Write the model; returns the exit code."""
    from llm.runs.saved_model import find_model

    err = console(sys.stderr)
    saved = find_model(args.run, args.step)
    out = Path(args.out).expanduser() if args.out else default_out(saved, args.adapter)
    done = export(
        saved, out, adapter=args.adapter, dtype=args.dtype, force=args.force,
        progress=lambda what: err.print(what, markup=False),
    )  # fmt: skip
    size = sum(file.stat().st_size for file in done.folder.iterdir())
    told = console()
    told.print(
        f"parity ok: log-probs are those of the run's policy, mean {done.mean:.1e}, max "
        f"{done.max:.1e} nats off"
    )
    told.print(f"{done.dtype}, {size / 1e6:,.1f} MB, in {done.folder}", markup=False)
    return 0


def default_out(saved: SavedModel, adapter: bool) -> Path:
    """A folder of the run."""
    step = saved.step or 0
    return saved.run / "export" / (f"step-{step:06d}" + ("-adapter" if adapter else ""))


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Write a training run's checkpoint as a Hugging Face model: weights, "
        "tokenizer, generation config, model card.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder")
    add("--step", type=int, metavar="N", help="its checkpoint (default: the newest)")
    add("--adapter", action="store_true", help="only the LoRA adapters, not merged")
    add(
        "--out",
        metavar="DIR",
        help="the model's folder (default: RUN/export/step-N, or step-N-adapter)",
    )
    add("--dtype", choices=DTYPES, help="of the weights (default: the checkpoint's, unrounded)")
    add("--force", action="store_true", help="replace a model that is in DIR")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
