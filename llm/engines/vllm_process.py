def _import_vllm(log_level: str) -> bool:
    """Import vLLM, quietly, and say whether it is the CPU build."""
    logging.getLogger("vllm").setLevel(log_level.upper())
    try:
        importlib.import_module("vllm")
        envs = importlib.import_module("vllm.envs")
        platforms = importlib.import_module("vllm.platforms")
    except ImportError as error:
        if error.name == "vllm":
            raise EngineError(NOT_INSTALLED) from error
        raise EngineError(f"vLLM is installed but does not import: {error}") from error
    # vLLM reads the environment when it needs it, but an engine of before has made it remember.
    envs.disable_envs_cache()
    return bool(platforms.current_platform.is_cpu())


def _settings(separate: bool, log_level: str, quiet: bool) -> dict[str, str]:
    """Environment variables for the start: vLLM has no other way to be told these things."""
    settings = {
        # Whether the engine gets its own process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(separate)),
        # By default it reports to its makers who runs what.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": log_level.upper(),
    }
    if quiet:
        # Its log configuration would close the caller's log handlers.
        settings["VLLM_CONFIGURE_LOGGING"] = "0"
    return settings


def _cpu_settings(processes: int) -> dict[str, str]:
    """How processes of the engine share the cores, unless the environment says it already."""
    settings = {
        # Trainer and engine take turns, so neither keeps cores from the other.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


@contextmanager
def _caller_untouched() -> Iterator[None]:
    """Put back the global state of Python, numpy and torch that vLLM sets; hide its warnings."""
    python, numpy_, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    hook = sys.excepthook  # torch.distributed prefixes tracebacks with its rank
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        random.setstate(python)
        np.random.set_state(numpy_)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Set variables, and put the environment back but for those that vLLM keeps for itself.

    It sets LD_PRELOAD and LOCAL_WORLD_SIZE, say, which are not only its own business. Yields a
    function that sets more.
    """
    before = dict(os.environ)
    ours: set[str] = set()

    def configure(more: Mapping[str, str]) -> None:
        ours.update(more)
        os.environ.update(more)

    configure(settings)
    try:
        yield configure
    finally:
        for name in set(os.environ) - set(before):
            if not name.startswith("VLLM_") or name in ours:
                del os.environ[name]
        os.environ.update(before)


class _Printed:
    """What vLLM and its processes print goes to a file, on the level of file descriptors.

    Its C++ parts know nothing of Python's streams or levels. The file is there to look at where
    something fails, and goes with the engine where nothing does.
    """

    def __init__(self, quiet: bool) -> None:
        self._path: Path | None = None
        if quiet:
            handle, name = tempfile.mkstemp(prefix="vllm-", suffix=".log")
            os.close(handle)
            self._path = Path(name)

    @property
    def hint(self) -> str:
        if self._path and self._path.exists() and self._path.stat().st_size:
            return f"; what it printed is in {self._path}"
        return ""

    def keep(self) -> None:
        self._path = None

    def discard(self) -> None:
        if self._path:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> _Printed:
        if self._path:
            _flush()
            self._saved = [os.dup(1), os.dup(2)]
            target = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.close(target)
        return self

    def __exit__(self, *_: object) -> None:
        if self._path:
            _flush()
            for number, saved in enumerate(self._saved, start=1):
                os.dup2(saved, number)
                os.close(saved)
            if not self._path.stat().st_size:
                self.discard()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


class _Groups:
    """vLLM's process groups in this process: its engines share them, the last one removes them."""

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[VLLMEngine] = weakref.WeakSet()
        self._ours = False

    def prepare(self) -> None:
        """Before an engine starts."""
        if self.engines:
            return
        torch_has_one = torch.distributed.is_available() and torch.distributed.is_initialized()
        if torch_has_one and (size := torch.distributed.get_world_size()) > 1:
            raise EngineError(
                f"separate_process: vLLM cannot share a process that torch.distributed joins with "
                f"{size - 1} more; set separate_process=True"
            )
        self._ours = not torch_has_one

    def leave(self, engine: VLLMEngine) -> None:
        """After an engine has stopped."""
        from vllm.distributed import parallel_state

        self.engines.discard(engine)
        gc.unfreeze()  # vLLM froze what it had made
        if not self.engines:
            parallel_state.destroy_model_parallel()
            if self._ours:
                parallel_state.destroy_distributed_environment()
            elif parallel_state._WORLD is not None:  # vLLM has no way to forget the caller's
                parallel_state._WORLD.destroy()
                parallel_state._WORLD = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


_groups = _Groups()


def _shut(client: Any) -> None:
    """Stop an engine in this process; its own `shutdown` would also end the groups of others."""
    client._finalizer.detach()
    core = client.engine_core
    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()


def _watch(client: Any) -> list[Any]:
    """The engine's processes; who waits for one that dies is woken with an error.

    vLLM notices the death too, but then leaves those who wait for an answer waiting.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    processes = list(client.resources.engine_manager.processes)
    answers, calls = client.outputs_queue, client.utility_results

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        answers.put_nowait(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, daemon=True, name="vllm-watch").start()
    return processes


def _exit(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
