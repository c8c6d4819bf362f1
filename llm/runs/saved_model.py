"""A saved model: a base model, or a checkpoint of a training run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.models.shipped import locate
from llm.runs.checkpoint_folders import MANIFEST, complete

if TYPE_CHECKING:
    import torch

    from llm.config.train import TrainConfig

#: Bytes at each end of a file that enter the digest of a model.
ENDS = 2**20


@dataclass(frozen=True)
class SavedModel:
    """A saved model, as `find_model` returns it.

    Attributes
    ----------
    name : str
        As the user gave it.
    model : str
        Folder or hub name of the model; for a run, of its base model.
    config : TrainConfig or None
        Settings of the run, if it is one.
    checkpoint : Path or None
        Checkpoint of the run.
    step : int or None
        Step of the checkpoint.
    """

    name: str
    model: str
    config: TrainConfig | None = None
    checkpoint: Path | None = None
    step: int | None = None

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.name)

    def settings(self, *names: str) -> dict[str, Any]:
        """Settings of the run by name; none of a model that is no run."""
        return {} if self.config is None else {name: getattr(self.config, name) for name in names}

    def policy(self, device: torch.device, bf16: bool = False) -> Any:
        """Load the model in eval mode, with the weights of the checkpoint.

        Parameters
        ----------
        device : torch.device
        bf16 : bool
            Whether the base model under adapters is in bfloat16; all else is in float32.

        Raises
        ------
        FileNotFoundError, llm.runs.checkpoints.CheckpointError
            If model or checkpoint cannot be loaded.
        ValueError
            If they do not belong together.
        """
        from llm.models.policy import load_policy, load_trainable
        from llm.runs import checkpoints

        if self.config is None or self.checkpoint is None:
            return load_policy(self.model, device=device).eval()
        policy = load_policy(self.model, lora=self.config.lora, device=device, bf16=bf16)
        checkpoint = checkpoints.load(self.checkpoint, ["model"])
        load_trainable(policy, checkpoint.tensors["model"])
        return policy.eval()

    def revision(self) -> str:
        """Identifier of the weights: equal for equal models."""
        base = _revision(self.model)
        if self.checkpoint is None:
            return base
        manifest = json.loads((self.checkpoint / MANIFEST).read_bytes())
        return f"{manifest['files']['model.safetensors']['sha256'][:16]} on {base}"


def find_model(name: str, step: int | None = None) -> SavedModel:
    """Find a model by name, or a checkpoint of a run: the newest, or that of a step.

    Parameters
    ----------
    name : str
        A run's folder, a model's folder, a hub name, or a name in `llm.models.shipped.SHIPPED`.
    step : int, optional

    Raises
    ------
    ValueError
        If the run has no such checkpoint, or a step is given for a name that is no run.
    """
    folder = Path(name)
    if (folder / MANIFEST).is_file():
        run, number = folder.absolute().parent.parent, folder.name.removeprefix("step-")
        raise ValueError(
            f"{name} is a checkpoint; name its run: {run} --step {number.lstrip('0') or 0}"
        )
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{name} holds adapters without their base model; name the run, or merge them"
        )
    if not (folder / "config.yaml").is_file():
        if step is not None:
            raise ValueError(
                f"step: {step} of {name}, which is no training run: it has no config.yaml; leave "
                "--step out for a model"
            )
        return SavedModel(name, locate(name))
    config = run_config(folder)
    checkpoints = complete(folder / "checkpoints")
    if not checkpoints:
        raise ValueError(f"{name}: no checkpoints/step-* in it, so there are no weights to load")
    chosen = max(checkpoints) if step is None else step
    if chosen not in checkpoints:
        steps = ", ".join(map(str, checkpoints))
        raise ValueError(f"step: {step} is not among the checkpoints of {name}: {steps}")
    return SavedModel(name, locate(config.model), config, checkpoints[chosen], chosen)


def run_config(folder: Path) -> TrainConfig:
    """Settings of a run, from its folder."""
    from llm.config.train import parse_config

    return parse_config([f"--config={folder / 'config.yaml'}"], "llm")


def eos_ids(model: str) -> list[int]:
    """EOS token ids of a model that is not loaded; see `llm.models.policy.eos_token_ids`."""
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # the model has no generation_config.json
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))
    eos = generation.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _revision(model: str) -> str:
    """Commit of a hub model; for a folder, a digest of the sizes and ends of its files."""
    from transformers.utils import cached_file

    folder = Path(model)
    if not folder.is_dir():
        return f"commit {Path(str(cached_file(model, 'config.json'))).parent.name}"
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin", ".jinja") and file.is_file():
            size = file.stat().st_size
            with file.open("rb") as stream:
                digest.update(f"{file.name} {size}\n".encode())
                digest.update(stream.read(ENDS))
                stream.seek(max(0, size - ENDS))
                digest.update(stream.read(ENDS))
    return digest.hexdigest()[:16]
