"""vLLM as an `Engine`: in this process, in a separate process, or tensor-parallel.

vLLM changes global state of its host process. `llm.engines.vllm_process` restores that state, and
watches separate engine processes.

Each sample j of a request is one vLLM request, seeded by a hash of (seed, j). With vLLM's own rule,
seed + j, neighbouring seeds would share samples. The last 32 bits of the hashes must differ too, as
vLLM's CPU generators use no others. With one request per sample, vLLM reports the prefix-cache hits
of each sample.
"""

from __future__ import annotations

import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from llm.distributed.processes import world_size
from llm.engines.engine import (
    Completion,
    EngineError,
    EngineStats,
    SamplingParams,
    check_requests,
    check_state,
    check_texts,
)
from llm.engines.vllm_process import (
    OutputLog,
    caller_untouched,
    cpu_settings,
    dead_process,
    devices,
    environment,
    groups,
    import_vllm,
    settings,
    shut_in_process,
    shut_processes,
    socket_settings,
    starting,
    watch,
)
from llm.engines.vllm_weights import Adapters, Folder, Transfer
from llm.engines.watchdog import Watchdog


class VLLMEngine:
    """An `Engine` that runs vLLM.

    Parameters
    ----------
    model : str or Path
        Folder or hub name of a causal language model.
    dtype : str
        Type of weights and computation; "auto" is float32 on a CPU and bfloat16 on a GPU.
    max_model_len : int, optional
        By default the limit in the model's configuration.
    seed : int
        Global seed of vLLM. No sample depends on it, as each request has its own seed.
    tensor_parallel_size : int
        Number of GPUs (processes) that share the model; more than one implies `separate_process`.
    separate_process : bool
        Run the engine in a separate process. Weights are then sent through a temporary folder in
        `TMPDIR`. A script that starts such an engine needs the `if __name__ == "__main__"` guard.
        Implied by training with several processes, each of which has its own engine. Needed for
        architectures that vLLM runs with classes of Transformers, such as OLMo, as it patches them.
    first_device : int, optional
        First of the GPUs reserved for this engine; under torchrun, those of the next ranks follow.
        Weights are sent by NCCL, and the engine never sleeps. By default the engine shares the GPU
        of its process. Not yet run on GPUs.
    adapters : peft.LoraConfig, optional
        Configuration of LoRA adapters. If given, `sync_weights` takes the result of
        `llm.models.policy.adapter_state_dict`, and vLLM applies the adapters to the base weights.
    gpu_memory_utilization : float
        Fraction of the GPU's memory that vLLM reserves, including weights.
    max_num_seqs : int
        Maximum number of samples in a batch.
    block_size : int, optional
        Tokens per block of the prefix cache, which reuses full blocks only. By default 32 on a CPU,
        the smallest supported size, and vLLM's default on a GPU.
    enforce_eager : bool, optional
        Do not compile the model; by default true on a CPU, where compilation takes minutes.
    kv_cache_gib : float
        Size of the KV cache on a CPU, in GiB.
    log_level : str
        At "ERROR" and "CRITICAL" output goes to a file; at other levels vLLM logs to the terminal.

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
        self._shares_device = first_device is None
        self.stats = EngineStats()
        visible = devices(first_device, tensor_parallel_size)
        if not self._separate:
            groups.prepare()
        self.watchdog = Watchdog()
        weakref.finalize(self, self.watchdog.close)  # in case `close` is never called
        folder = tempfile.mkdtemp(prefix="vllm-")  # of output, sockets, and weights on their way
        self.watchdog.add_folder(folder)
        self._send = self._weight_sender(adapters, tensor_parallel_size, first_device, folder)
        quiet = log_level.upper() in ("ERROR", "CRITICAL")
        with (
            caller_untouched(),
            environment(
                settings(self._separate, log_level, quiet) | socket_settings(folder) | visible
            ) as configure,
            OutputLog(quiet, folder) as self._log,
        ):
            cpu = import_vllm(log_level)
            self._eager = cpu if enforce_eager is None else enforce_eager
            self._expected = _meta_state(model)
            # The sampler compiles one function, the rank of a token, which is not used here.
            # Compiling it would add 4 to 18 s to the first call and need a C++ compiler.
            self._compiles = not (cpu and self._eager)
            if not self._compiles:
                configure({"TORCH_COMPILE_DISABLE": "1"})
            if cpu:
                configure(cpu_settings(tensor_parallel_size))
            self._llm = self._start(
                model=str(model),
                dtype=dtype if dtype != "auto" else "float32" if cpu else "bfloat16",
                max_model_len=max_model_len,
                seed=seed % 2**32,  # vLLM takes no larger one
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=int(kv_cache_gib * 2**30) if cpu else None,
                max_num_seqs=max_num_seqs,
                enforce_eager=self._eager,
                **({"block_size": block_size or 32} if cpu or block_size else {}),
                # On a CPU, vLLM crashes if a batch ends within the prompt of a seeded request: it
                # cannot undo the random number drawn there. So prompts are not split.
                **({"enable_chunked_prefill": False} if cpu else {}),
                **getattr(self._send, "options", {}),
            )
        self.max_model_len: int = self._llm.model_config.max_model_len
        self.dtype: torch.dtype = self._llm.model_config.dtype
        self._vocab_size: int = self._llm.model_config.get_vocab_size()
        if self._separate:
            self._processes = watch(self._llm.llm_engine.engine_core)
        else:
            groups.engines.add(self)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; makes one call of vLLM."""
        llm = self._awake()
        check_requests(prompts, params, self.max_model_len, self._vocab_size)
        began = time.perf_counter()
        requests, sampling = [], []
        for prompt, p in zip(prompts, params, strict=True):
            ids = np.asarray(prompt, dtype=np.int64).tolist()
            # vLLM rejects stop ids outside the vocabulary; no sample can contain them anyway.
            stops = [token for token in p.stop_token_ids if 0 <= token < self._vocab_size]
            for j in range(p.n):
                requests.append({"prompt_token_ids": ids})
                sampling.append(_sampling_params(p, j, stops))
        samples = iter(self._run(llm, requests, sampling))
        completions = []
        for p in params:
            completions.append([self._completion(next(samples), p) for _ in range(p.n)])
        self.stats.seconds += time.perf_counter() - began
        return completions

    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """See `Engine.logprobs`; vLLM reads no cached prefix then, and samples one unused token."""
        from vllm import SamplingParams as VLLMParams

        llm = self._awake()
        texts = check_texts(prompts, continuations, self.max_model_len, self._vocab_size)
        began = time.perf_counter()
        params = VLLMParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        requests = [{"prompt_token_ids": text} for text in texts]
        results = []
        for output, prompt in zip(
            self._run(llm, requests, [params] * len(texts)), prompts, strict=True
        ):
            self.stats.prompt_tokens += len(output.prompt_token_ids)
            # There is one log-prob per token but the first.
            scores = output.prompt_logprobs.logprobs[len(prompt) - 1 :]
            results.append(np.array(scores, dtype=np.float64))
        self.stats.seconds += time.perf_counter() - began
        return results

    def _run(self, llm: Any, requests: list[dict[str, list[int]]], params: list[Any]) -> Any:
        """Outputs of vLLM for some requests."""
        try:
            with self._isolated():
                return llm.generate(
                    requests,
                    params,
                    use_tqdm=False,
                    lora_request=getattr(self._send, "request", None),
                )
        except BaseException as error:
            self._abort_requests(error)

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.sync_weights`; takes the adapters alone if started with `adapters`."""
        llm = self._awake()
        if not isinstance(self._send, Adapters):
            check_state(self._expected, state_dict, self.dtype)
        try:
            with self._isolated():
                self._send(llm, state_dict)
                # Cached prefixes were computed with the old weights.
                if not llm.reset_prefix_cache():
                    raise RuntimeError("its prefix cache is in use")
        except Exception as error:
            # The engine is unusable: some of the weights may already be replaced.
            message = self._death() or f"vLLM did not load the new weights: {_first_line(error)}"
            self._fail(message, error)

    def sleep(self) -> None:
        """Free GPU memory until `wake`: moves weights to the CPU, drops cached prefixes."""
        if self._sleeps and not self._asleep:
            self._call("sleep")
            self._asleep = True

    def wake(self) -> None:
        """Undo `sleep`."""
        if self._asleep:
            self._asleep = False
            self._call("wake_up")

    def close(self) -> None:
        """Free all resources; may be called twice."""
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
        self.watchdog.close()

    def _weight_sender(
        self, adapters: Any, workers: int, first_device: int | None, folder: str
    ) -> Any:
        """Function (llm, state_dict) that sends new weights to vLLM."""
        if adapters is not None:
            return Adapters(adapters, folder)
        if first_device is not None:
            return Transfer(workers)
        return Folder(folder) if self._separate else _reload_weights

    def _start(self, **options: Any) -> Any:
        from vllm import LLM
        from vllm.platforms import current_platform

        self._sleeps = self._shares_device and current_platform.is_sleep_mode_available()
        try:
            if not self._separate and _runs_transformers_class(options["model"]):
                raise ValueError(
                    "it runs this architecture with a class of Transformers, which it patches for "
                    "the whole process; set vllm.separate_process true"
                )
            with starting(self.watchdog.add_process):
                return LLM(
                    **options,
                    enable_prefix_caching=True,
                    enable_sleep_mode=self._sleeps,
                    # Requests and samples are ids; generation_config.json must not change sampling.
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    logprobs_mode="processed_logprobs",
                    use_tqdm_on_load=False,
                )
        except BaseException as error:
            if not self._separate:
                groups.leave(self)
            log = self._log.keep() if isinstance(error, Exception) else ""
            self.watchdog.close()
            if not isinstance(error, Exception):  # Ctrl-C
                raise
            raise EngineError(
                f"vLLM does not start {options['model']}: {_first_line(error)}{_advice(error)}{log}"
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
            with self._isolated():
                getattr(llm, method)()
        except Exception as error:
            message = self._death() or f"vLLM's {method} failed: {_first_line(error)}"
            self._fail(message, error)

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """Keep global state and avoid compilation during a call of vLLM in this process."""
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
            self._fail(f"vLLM ended a request with {sample.finish_reason!r}", None)
        self.stats.prompt_tokens += len(output.prompt_token_ids)
        self.stats.cached_tokens += output.num_cached_tokens or 0
        self.stats.generated_tokens += len(ids)
        return Completion(
            ids,
            np.array(sample.logprobs.logprobs, dtype=np.float64),
            "stop" if sample.token_ids[-1] in p.stop_token_ids else "length",
        )

    def _abort_requests(self, error: BaseException) -> NoReturn:
        """Raise the error of `generate`, after removing its unfinished requests."""
        interrupted = not isinstance(error, Exception)
        if not interrupted and (message := self._death()):
            self._fail(message, error)
        engine = self._llm.llm_engine
        with suppress(Exception):
            engine.abort_request(list(engine.output_processor.request_states), internal=True)
        if interrupted or isinstance(error, ValueError):
            raise error
        self._fail(f"vLLM failed: {_first_line(error)}", error)

    def _death(self) -> str | None:
        """How the engine's process ended, if it did."""
        return dead_process(self._processes) if self._separate else None

    def _fail(self, message: str, error: BaseException | None) -> NoReturn:
        """Close the engine and raise an EngineError."""
        hint = self._log.keep() if self._separate else ""
        self.close()
        raise EngineError(f"{message}; start a new engine{hint}") from error


def _runs_transformers_class(model: str) -> bool:
    """Whether vLLM has no implementation of the architecture and uses that of Transformers."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    models = ModelRegistry.models
    return any(
        name not in models or getattr(models[name], "module_name", "").endswith(".transformers")
        for name in AutoConfig.from_pretrained(model).architectures or ()
    )


def _meta_state(model: str | Path) -> dict[str, torch.Tensor]:
    """The model's weights on the meta device: names and shapes without values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return dict(AutoModelForCausalLM.from_config(config).state_dict())


def _sampling_params(p: SamplingParams, j: int, stops: list[int]) -> Any:
    """vLLM's parameters for sample j of `p`; top-k and penalties stay off."""
    from vllm import SamplingParams as VLLMParams

    return VLLMParams(
        max_tokens=p.max_tokens,
        temperature=p.temperature,
        top_p=p.top_p,
        seed=None if p.temperature == 0 else _stream(p.seed, j),
        stop_token_ids=stops,
        ignore_eos=True,  # EOS stops only if listed in stop_token_ids
        logprobs=0,  # of the sampled token only
        flat_logprobs=True,  # lists; building dictionaries takes 10 % of the time
        detokenize=False,
    )


def _stream(seed: int, j: int) -> int:
    """Seed of sample j in 63 bits: the j-th output of SplitMix64, without its last bit."""
    mask = 2**64 - 1
    x = (seed + (j + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) >> 1


def _reload_weights(llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Load new weights into an engine in this process."""
    weights = list(state_dict.items())
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})


def _advice(error: BaseException) -> str:
    """Cure for an error of vLLM whose message gives none; else empty."""
    # Seen on a GPU: the allocator of an engine with sleep mode outlives the engine in its process.
    second = "one instance per process" in str(error)
    return " (closed ones count); set vllm.separate_process true" if second else ""


def _first_line(error: BaseException) -> str:
    """First line of an error's message; for a pydantic error, its first entry."""
    if callable(errors := getattr(error, "errors", None)):
        first = errors()[0]
        return ": ".join([*map(str, first["loc"]), *first["msg"].split("\n")[:1]])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
