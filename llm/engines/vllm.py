"""vLLM behind the `Engine` protocol: in this process, in one of its own, or tensor-parallel.

vLLM takes its host process for its own; `llm.engines.vllm_process` keeps that as it was, and
watches processes of the engine's own.

Sample j of a request is a vLLM request of its own, seeded by a hash of (seed, j). Neighbouring
seeds then share nothing (vLLM's own rule, seed + j, would make them overlap, and its CPU generators
look at the last 32 bits alone), and every sample reports what the prefix cache saved it.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from llm.distributed.processes import world_size
from llm.engines.engine import (
    Completion,
    EngineError,
    EngineStats,
    SamplingParams,
    check_requests,
    check_state,
)
from llm.engines.vllm_process import (
    Printed,
    caller_untouched,
    cpu_settings,
    death,
    devices,
    environment,
    groups,
    import_vllm,
    settings,
    shut_in_process,
    shut_processes,
    starting,
    watch,
)
from llm.engines.vllm_weights import Adapters, Folder, Transfer


class VLLMEngine:
    """An `Engine` that runs vLLM.

    Parameters
    ----------
    model : str or Path
        Folder or hub name of a causal language model.
    dtype : str
        Of weights and computation; "auto" is float32 on a CPU and bfloat16 on a GPU.
    max_model_len : int, optional
        By default what the model's configuration says.
    seed : int
        vLLM's own; requests carry theirs, so no sample depends on it.
    tensor_parallel_size : int
        Processes (GPUs) that share the model; more than one implies `separate_process`.
    separate_process : bool
        Run the engine in a process of its own. Weights then travel through a temporary folder, in
        `TMPDIR`. A script that makes such an engine needs the `if __name__ == "__main__"` guard.
        Implied where several processes train together: each has an engine of its own. Needed for
        architectures that vLLM runs by the classes of Transformers, such as OLMo's: it alters them.
    first_device : int, optional
        The engine has GPUs of its own from this one on, as many as it needs; under torchrun, those
        of further processes follow. Weights travel by NCCL, and the engine never sleeps. By default
        it shares the GPU of its process. Not yet run on GPUs.
    adapters : peft.LoraConfig, optional
        `sync_weights` takes LoRA adapters of this kind, as
        `llm.models.policy.adapter_state_dict` gives them, and vLLM applies them to the model's own
        weights.
    gpu_memory_utilization : float
        Share of the GPU's memory that vLLM takes, weights included.
    max_num_seqs : int
        Most samples in a batch.
    block_size : int, optional
        Tokens in a block of the prefix cache, of which only whole blocks are found again; by
        default 32 on a CPU (the least it likes) and vLLM's own on a GPU.
    enforce_eager : bool, optional
        Do not compile; by default on a CPU, where it takes minutes.
    kv_cache_gib : float
        Size of the cache on a CPU.
    log_level : str
        "ERROR" is quiet; at any other level vLLM logs, and prints, as it likes.

    Raises
    ------
    EngineError
        If vLLM is not installed or does not start.

    Notes
    -----
    vLLM raises temperatures between 0 and 0.01 to 0.01.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        seed: int = 0,
        tensor_parallel_size: int = 1,
        separate_process: bool = False,
        first_device: int | None = None,
        adapters: Any = None,
        gpu_memory_utilization: float = 0.5,
        max_num_seqs: int = 256,
        block_size: int | None = None,
        enforce_eager: bool | None = None,
        kv_cache_gib: float = 1.0,
        log_level: str = "ERROR",
    ) -> None:
        self._llm: Any = None
        self._asleep = False
        several = tensor_parallel_size > 1 or world_size() > 1
        self._separate = separate_process or several or first_device is not None
        self._send = self._sender(adapters, tensor_parallel_size, first_device)
        self._shares_device = first_device is None
        self.stats = EngineStats()
        ours = devices(first_device, tensor_parallel_size)
        if not self._separate:
            groups.prepare()
        quiet = log_level.upper() in ("ERROR", "CRITICAL")
        with (
            caller_untouched(),
            environment(settings(self._separate, log_level, quiet) | ours) as configure,
            Printed(quiet) as self._printed,
        ):
            cpu = import_vllm(log_level)
            self._eager = cpu if enforce_eager is None else enforce_eager
            self._expected = _meta_state(model)
            # The sampler has one compiled function, the rank of a token, which nobody reads here;
            # it takes 4 to 18 s of the first call, and a C++ compiler.
            self._compiles = not (cpu and self._eager)
            if not self._compiles:
                configure({"TORCH_COMPILE_DISABLE": "1"})
            if cpu:
                configure(cpu_settings(tensor_parallel_size))
            self._llm = self._start(
                model=str(model),
                dtype=dtype if dtype != "auto" else "float32" if cpu else "bfloat16",
                max_model_len=max_model_len,
                seed=seed,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=int(kv_cache_gib * 2**30) if cpu else None,
                max_num_seqs=max_num_seqs,
                enforce_eager=self._eager,
                **({"block_size": block_size or 32} if cpu or block_size else {}),
                # On a CPU, vLLM cannot take back the random number that a seeded request draws when
                # a batch ends in the middle of its prompt, and dies; so prompts are not split.
                **({"enable_chunked_prefill": False} if cpu else {}),
                **getattr(self._send, "options", {}),
            )
        self.max_model_len: int = self._llm.model_config.max_model_len
        self.dtype: torch.dtype = self._llm.model_config.dtype
        self._vocab_size: int = self._llm.model_config.get_vocab_size()
        if self._separate:
            self._processes = watch(self._llm.llm_engine.engine_core)
            weakref.finalize(self, self._printed.discard)  # if nobody calls `close`
        else:
            self._printed.discard()
            groups.engines.add(self)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; one call of vLLM's."""
        llm = self._awake()
        check_requests(prompts, params, self.max_model_len, self._vocab_size)
        began = time.perf_counter()
        requests, sampling = [], []
        for prompt, p in zip(prompts, params, strict=True):
            ids = np.asarray(prompt, dtype=np.int64).tolist()
            # vLLM refuses stop ids outside the vocabulary, which no sample can end with anyway.
            stops = [token for token in p.stop_token_ids if 0 <= token < self._vocab_size]
            for j in range(p.n):
                requests.append({"prompt_token_ids": ids})
                sampling.append(_sampling_params(p, j, stops))
        try:
            with self._guarded():
                outputs = llm.generate(
                    requests,
                    sampling,
                    use_tqdm=False,
                    lora_request=getattr(self._send, "request", None),
                )
        except BaseException as error:
            self._abandon(error)

        answers = iter(outputs)
        completions = []
        for p in params:
            completions.append([self._completion(next(answers), p) for _ in range(p.n)])
        self.stats.seconds += time.perf_counter() - began
        return completions

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.sync_weights`; of adapters, where it has been started for some."""
        llm = self._awake()
        if not isinstance(self._send, Adapters):
            check_state(self._expected, state_dict, self.dtype)
        try:
            with self._guarded():
                self._send(llm, state_dict)
                # What the old weights made of a prefix says nothing about the new ones.
                if not llm.reset_prefix_cache():
                    raise RuntimeError("its prefix cache is in use")
        except Exception as error:
            # Half of the weights may be new.
            message = self._died() or f"vLLM did not take the new weights: {_first_line(error)}"
            self._give_up(message, error)

    def sleep(self) -> None:
        """Free the GPU's memory until `wake`: weights move to the CPU, cached prefixes are lost."""
        if self._sleeps and not self._asleep:
            self._call("sleep")
            self._asleep = True

    def wake(self) -> None:
        """Undo `sleep`."""
        if self._asleep:
            self._asleep = False
            self._call("wake_up")

    def close(self) -> None:
        """Free everything. May be called twice."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        with caller_untouched():
            client = llm.llm_engine.engine_core
            if self._separate:
                shut_processes(client)
            else:
                shut_in_process(client)
                del client, llm
                groups.leave(self)
        self._printed.discard()

    def _sender(self, adapters: Any, workers: int, first_device: int | None) -> Any:
        """What takes new weights to the engine."""
        if adapters is not None:
            return Adapters(adapters)
        if first_device is not None:
            return Transfer(workers)
        return Folder() if self._separate else _hand_over

    def _start(self, **options: Any) -> Any:
        from vllm import LLM
        from vllm.platforms import current_platform

        self._sleeps = self._shares_device and current_platform.is_sleep_mode_available()
        try:
            if not self._separate and _by_transformers(options["model"]):
                raise ValueError(
                    "it runs this architecture by a class of Transformers, which it alters for the "
                    "whole process; set vllm.separate_process true"
                )
            with starting():
                return LLM(
                    **options,
                    enable_prefix_caching=True,
                    enable_sleep_mode=self._sleeps,
                    # Ids go in and come out; a model's generation_config.json changes no sampling.
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    logprobs_mode="processed_logprobs",
                    use_tqdm_on_load=False,
                )
        except BaseException as error:
            if not self._separate:
                groups.leave(self)
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            raise EngineError(
                f"vLLM does not start {options['model']}: {_first_line(error)}{_cure(error)}"
                f"{self._printed.hint}"
            ) from error

    def _awake(self) -> Any:
        if self._llm is None:
            raise EngineError("the engine is closed; make a new one")
        if self._asleep:
            raise EngineError("the engine is asleep; call wake() first")
        return self._llm

    def _call(self, method: str) -> None:
        llm = self._awake()
        try:
            with self._guarded():
                getattr(llm, method)()
        except Exception as error:
            message = self._died() or f"vLLM's {method} failed: {_first_line(error)}"
            self._give_up(message, error)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Around every call: in process, vLLM draws from torch's global generator and compiles."""
        if self._separate:
            yield
            return
        eager: AbstractContextManager[Any] = nullcontext()
        if not self._compiles:
            eager = torch.compiler.set_stance("force_eager")
        with caller_untouched(), eager:
            yield

    def _completion(self, output: Any, p: SamplingParams) -> Completion:
        sample = output.outputs[0]
        ids = np.array(sample.token_ids, dtype=np.int64)
        if sample.finish_reason not in ("stop", "length") or not len(ids):
            self._give_up(f"vLLM ended a request with {sample.finish_reason!r}", None)
        self.stats.prompt_tokens += len(output.prompt_token_ids)
        self.stats.cached_tokens += output.num_cached_tokens or 0
        self.stats.generated_tokens += len(ids)
        return Completion(
            ids,
            np.array(sample.logprobs.logprobs, dtype=np.float64),
            "stop" if sample.token_ids[-1] in p.stop_token_ids else "length",
        )

    def _abandon(self, error: BaseException) -> NoReturn:
        """Raise what `generate` met, and leave no request behind for the next call to find."""
        interrupted = not isinstance(error, Exception)
        if not interrupted and (message := self._died()):
            self._give_up(message, error)
        engine = self._llm.llm_engine
        with suppress(Exception):
            engine.abort_request(list(engine.output_processor.request_states), internal=True)
        if interrupted or isinstance(error, ValueError):
            raise error
        self._give_up(f"vLLM failed: {_first_line(error)}", error)

    def _died(self) -> str | None:
        """Why the engine's process is gone, if it is."""
        return death(self._processes) if self._separate else None

    def _give_up(self, message: str, error: BaseException | None) -> NoReturn:
        hint = self._printed.hint if self._separate else ""
        self._printed.keep()
        self.close()
        raise EngineError(f"{message}; start a new engine{hint}") from error


def _by_transformers(model: str) -> bool:
    """Whether vLLM has no implementation of its own of the model's architecture."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    models = ModelRegistry.models
    return any(
        name not in models or getattr(models[name], "module_name", "").endswith(".transformers")
        for name in AutoConfig.from_pretrained(model).architectures or ()
    )


def _meta_state(model: str | Path) -> dict[str, torch.Tensor]:
    """Names and shapes of the model's weights, as tensors without values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return dict(AutoModelForCausalLM.from_config(config).state_dict())


def _sampling_params(p: SamplingParams, j: int, stops: list[int]) -> Any:
    """Sample j of `p` as vLLM's parameters; those not named, top-k and penalties, are off."""
    from vllm import SamplingParams as VLLMParams

    return VLLMParams(
        max_tokens=p.max_tokens,
        temperature=p.temperature,
        top_p=p.top_p,
        seed=None if p.temperature == 0 else _stream(p.seed, j),
        stop_token_ids=stops,
        ignore_eos=True,  # EOS counts where it is named
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,  # as plain lists: thousands of dictionaries cost a tenth of the time
        detokenize=False,
    )


def _stream(seed: int, j: int) -> int:
    """A seed for sample j: SplitMix64's j-th output, less a bit for the sign."""
    mask = 2**64 - 1
    x = (seed + (j + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) >> 1


def _hand_over(llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Weights for an engine in this process."""
    weights = list(state_dict.items())
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})


def _cure(error: BaseException) -> str:
    """What helps where vLLM does not say it."""
    # Seen on a GPU: of an engine with sleep mode, something outlives it in its process.
    once = "one instance per process" in str(error)
    return " (an earlier one counts); set vllm.separate_process true" if once else ""


def _first_line(error: BaseException) -> str:
    """What an error says first; pydantic says first how many there are."""
    if callable(errors := getattr(error, "errors", None)):
        found = errors()[0]
        return ": ".join([*map(str, found["loc"]), *found["msg"].split("\n")[:1]])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
