"""Checkpoints: bit-exact round trips, kills and full disks."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from llm.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    latest,
    load,
    save,
)
from tests.cpi.worlds import repeatable
from tests.llm.tensors import assert_same, bits

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Skip fsync: a killed process loses nothing that it has written; only a power cut does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def model_of(step: int, size: int = 1000) -> dict[str, dict[str, Tensor]]:
    """Tensors whose values are the step."""
    return {
        "model": {"w": torch.full((size,), float(step))},
        "optimizer": {"m": torch.full((size // 2,), -float(step))},
    }


def assert_step(loaded: Checkpoint, step: int) -> None:
    assert loaded.step == step
    assert loaded.state["step"] == step
    assert loaded.tensors["model"]["w"].eq(step).all()
    assert loaded.tensors["optimizer"]["m"].eq(-step).all()


# --- round trips ---


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors of arbitrary bits, including NaNs; also scalars, empty and transposed tensors."""
    tensors = {}
    for name in draw(st.lists(st.text(max_size=5), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        noise = np.random.default_rng(draw(st.integers(0, 2**32)))
        count = math.prod(shape)
        if dtype == torch.bool:
            flat = torch.tensor(noise.random(count) < 0.5)
        elif count:
            flat = torch.frombuffer(bytearray(noise.bytes(count * dtype.itemsize)), dtype=dtype)
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape)
        if draw(st.booleans()):
            tensors[name] = tensors[name].permute(list(reversed(range(len(shape)))))
    return tensors


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
    max_leaves=6,
)


@repeatable
@given(model=groups(), other=groups(), state=st.dictionaries(st.text(), values, max_size=3))
def test_load__returns_the_same_bits(
    model: dict[str, Tensor], other: dict[str, Tensor], state: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), 12, {"model": model, "other-1": other}, state)
        assert path == Path(folder) / "step-000012"
        loaded = load(path)
    assert (loaded.step, loaded.path, loaded.state) == (12, path, state)
    assert repr(loaded.state) == repr(state)  # in order, and 1 is not 1.0
    assert list(loaded.tensors) == ["model", "other-1"]
    assert_same(loaded.tensors["model"], model)
    assert_same(loaded.tensors["other-1"], other)


def test_load__no_tensors_and_no_state(tmp_path: Path) -> None:
    loaded = load(save(tmp_path, 0, {}, {}))
    assert (loaded.step, loaded.state, loaded.tensors) == (0, {}, {})


def test_load__tied_weights_stay_tied(tmp_path: Path) -> None:
    embedding = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    model = {"lm_head.weight": embedding, "embed.weight": embedding.data, "bias": torch.ones(3)}
    path = save(tmp_path, 1, {"model": model, "copy": model}, {})
    assert (path / "model.safetensors").stat().st_size < 1.9 * embedding.nbytes + 200
    loaded = load(path).tensors
    assert_same(loaded["model"], model)
    assert_same(loaded["copy"], model)
    assert loaded["model"]["lm_head.weight"] is loaded["model"]["embed.weight"]
    assert loaded["copy"]["embed.weight"] is not loaded["model"]["embed.weight"]


def test_load__views_of_one_storage(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    model = {
        "base": base,
        "part": base[1:3],
        "other_part": base[2:4],
        "transposed": base.T,
        "square": base[:, :4],
        "transposed_square": base[:, :4].T,
        "twice": base[0].expand(2, 6),
        "as_int": base.view(torch.int32),
        "flat": base.view(-1),
        "empty": base[:0],
        "empty_too": base[:0],
    }
    loaded = load(save(tmp_path, 1, {"model": model}, {})).tensors["model"]
    assert_same(loaded, model)
    storages = {tensor.untyped_storage().data_ptr() for tensor in loaded.values() if tensor.numel()}
    assert len(storages) == 9
    assert loaded["empty"] is not loaded["empty_too"]
    loaded["part"].zero_()
    assert bits(loaded["base"]) == bits(base)


def test_load__lazily_conjugated_tensors(tmp_path: Path) -> None:
    """Their values differ from their stored bytes; temporaries may reuse an address."""
    generator = torch.Generator().manual_seed(0)
    z = {f"z{i}": torch.randn(40, 30, dtype=torch.complex64, generator=generator) for i in range(9)}
    model = {name: tensor.conj().T for name, tensor in z.items()} | {"z": z["z0"]}
    model["contiguous"] = torch.tensor([1 + 2j]).conj()
    model["negated"] = torch.tensor(1 + 2j).conj().imag
    assert model["contiguous"].is_conj() and model["negated"].is_neg()
    loaded = load(save(tmp_path, 1, {"model": model}, {})).tensors["model"]
    for name, tensor in model.items():
        assert torch.equal(loaded[name], tensor), name


def test_load__tensors_do_not_map_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1, model_of(1), {"step": 1})
    loaded = load(path)
    for file in path.iterdir():
        with file.open("r+b") as stream:  # in place: a mapped file would change
            stream.write(bytes(file.stat().st_size))
    assert_step(loaded, 1)
    loaded.tensors["model"]["w"].add_(1)


def test_latest__numeric_order_of_steps(tmp_path: Path) -> None:
    for step in (2, 10, 999_999, 1_000_000):
        path = save(tmp_path, step, model_of(step), {"step": step})
        assert latest(tmp_path) == path
    assert latest(tmp_path) == tmp_path / "step-1000000"
    save(tmp_path, 9, model_of(9), {"step": 9})
    assert latest(tmp_path) == tmp_path / "step-1000000"


def test_save__file_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = save(tmp_path, 1, model_of(1), {"step": 1})
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o644"}


# --- refusals ---


@pytest.mark.parametrize("group", ["", "..", "a/b", "/etc", "a\\b", ".hidden", "a.b", "Model", "é"])
def test_save__bad_group_names_are_refused(tmp_path: Path, group: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        save(tmp_path / "run", 1, {group: {}}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"loss": math.nan}, "state: loss is not JSON"),
        ({"loss": [math.inf]}, "state: loss is not JSON"),
        ({"betas": (1, 2)}, "state: betas would not survive"),
        ({"by_step": {1: 2}}, "state: by_step would not survive"),
        ({"text": "\ud83d\ude00"}, "state: text would not survive"),
        ({"tensor": torch.ones(1)}, "state: tensor is not JSON"),
        ({3: 4}, "state: 3 would not survive"),
    ],
)
def test_save__state_that_json_would_change_is_refused(
    tmp_path: Path, state: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "run", 1, {}, state)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("complex", torch.ones(2, dtype=torch.complex128)),
        ("sparse", torch.eye(2).to_sparse()),
        ("meta", torch.ones(2, device="meta")),
        ("__metadata__", torch.ones(2)),
    ],
)
def test_save__unsupported_tensors_are_refused(tmp_path: Path, name: str, tensor: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"tensors: .*{name}.*safetensors"):
        save(tmp_path / "run", 1, {"model": {name: tensor}}, {})
    assert names(tmp_path) == []


def test_save__impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step: -1 is negative"):
        save(tmp_path, -1, {}, {})
    with pytest.raises(ValueError, match="keep: 0 is less than 1; None keeps all"):
        save(tmp_path, 1, {}, {}, keep=0)


# --- keep and latest ---


def test_save__keep_deletes_older_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-000000").mkdir()  # no checkpoint: neither counted nor deleted
    for step in range(1, 6):
        save(tmp_path, step, model_of(step), {"step": step})
    save(tmp_path, 6, model_of(6), {"step": 6}, keep=3)
    kept = ["notes.txt", "step-000000", "step-000004", "step-000005", "step-000006"]
    assert names(tmp_path) == kept
    save(tmp_path, 6, model_of(6), {"step": 6}, keep=3)
    assert names(tmp_path) == kept
    for step in (4, 5, 6):
        assert_step(load(tmp_path / f"step-{step:06d}"), step)
    # A run resumed before step 6 deletes neither its new checkpoint nor that of step 6.
    save(tmp_path, 5, model_of(5), {"step": 5}, keep=1)
    assert names(tmp_path) == ["notes.txt", "step-000000", "step-000005", "step-000006"]


def test_latest__incomplete_checkpoints_are_ignored(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None
    assert latest(tmp_path) is None
    complete = save(tmp_path, 7, model_of(7), {"step": 7})
    assert latest(complete / "state.json") is None
    strays = ["step-000008.part", "step-000009.deleted", "step-000010.tmp", "step-0000011"]
    for stray in [*strays, "step-12", "step--00013", "my-step-000014", "step-000015 (copy)"]:
        shutil.copytree(complete, tmp_path / stray)
    (tmp_path / "step-000016").mkdir()
    shutil.copytree(complete, tmp_path / "step-000017")
    (tmp_path / "step-000017" / "manifest.json").unlink()
    (tmp_path / "step-000018").write_text("a file")
    assert latest(tmp_path) == complete
    # The next save removes only the leftovers of killed saves.
    before = names(tmp_path)
    save(tmp_path, 6, model_of(6), {"step": 6})
    left = {"step-000008.part", "step-000009.deleted"}
    assert set(names(tmp_path)) == {*before, "step-000006"} - left


def test_save__same_step_is_replaced(tmp_path: Path) -> None:
    path = save(tmp_path, 3, model_of(3) | {"extra": {}}, {"step": 3, "try": 1})
    save(tmp_path, 3, model_of(3), {"step": 3, "try": 2})
    assert names(tmp_path) == [path.name]
    assert names(path) == FILES
    loaded = load(path)
    assert_step(loaded, 3)
    assert loaded.state["try"] == 2


# --- damage ---


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The second of two checkpoints."""
    save(tmp_path, 10, model_of(10), {"step": 10})
    return save(tmp_path, 20, model_of(20), {"step": 20})


FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
HOW = ["missing", "a folder", "truncated", "empty", "longer", "flipped", "zeroed"]


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "a folder":
        file.unlink()
        file.mkdir()
    elif how == "truncated":
        file.write_bytes(content[:-2])  # the last byte is a newline
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "longer":
        file.write_bytes(content + b"}")
    elif how == "flipped":
        content[-9] ^= 1
        file.write_bytes(content)
    elif how == "zeroed":
        file.write_bytes(bytes(len(content)))


@pytest.mark.parametrize(
    ("name", "how"),
    # A flipped byte of the manifest may make another file look wrong; tested below.
    [(name, how) for name in FILES for how in HOW if (name, how) != ("manifest.json", "flipped")],
)
def test_load__damage_names_the_file_and_the_cure(two: Path, name: str, how: str) -> None:
    size = (two / name).stat().st_size
    damage(two / name, how)
    with pytest.raises(CheckpointError) as caught:
        load(two)
    message = str(caught.value)
    measured = how == "truncated" and name != "manifest.json"
    problem = f"has {size - 2} bytes instead of {size};" if measured else ""
    assert message.startswith(f"{two / name} {problem}")
    before = two.with_name("step-000010")
    cure = f"; delete the folder {two}; the one before it is {before}: --resume {before}"
    assert message.endswith(cure)
    assert "\n" not in message
    assert_step(load(before), 10)


def test_load__damage_of_the_only_checkpoint(two: Path) -> None:
    shutil.rmtree(two)
    only = two.with_name("step-000010")
    (only / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"is missing; .*there is none before it: start"):
        load(only)


@pytest.mark.parametrize(
    ("garbage", "problem"),
    [
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "says version None, which is not 1"),
        (b"[]", "says version None, which is not 1"),
        (b'{"version": 2, "files": {}}', "says version 2, which is not 1"),
        (b'{"version": 1}', "is not a list of files"),
        (b'{"version": 1, "files": []}', "is not a list of files"),
        (b'{"version": 1, "files": {}}', "is not a list of files"),
        (b'{"version": 1, "files": {"state.json": 3}}', "is not a list of files"),
        (b'{"version": 1, "files": {"state.json": {}, "../x.json": {}}}', "is not a list of files"),
    ],
)
def test_load__garbage_manifest(two: Path, garbage: bytes, problem: str) -> None:
    (two / "manifest.json").write_bytes(garbage)
    with pytest.raises(CheckpointError) as caught:
        load(two)
    assert str(caught.value).startswith(f"{two / 'manifest.json'} {problem}; delete the folder")


def test_load__flipped_manifest_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    tensors = {"a": {"w": torch.ones(2)}, "b": {"w": torch.zeros(2)}}
    path = save(tmp_path, 5, tensors, {"x": 1})
    good = (path / "manifest.json").read_bytes()
    refused = 0
    for index in range(len(good)):
        # XOR 3 turns b into a: two entries of one name, of which JSON keeps the last.
        for flip in (3, 128):
            bad = bytearray(good)
            bad[index] ^= flip
            (path / "manifest.json").write_bytes(bad)
            try:
                loaded = load(path)
            except CheckpointError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                assert (loaded.step, loaded.state) == (5, {"x": 1})
                for group, members in tensors.items():
                    assert_same(loaded.tensors[group], members)
    assert refused > 1.5 * len(good)


def test_load__manifest_without_a_file(two: Path) -> None:
    manifest = json.loads((two / "manifest.json").read_text())
    del manifest["files"]["optimizer.safetensors"]
    (two / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"manifest\.json does not list optimizer\.safetensors"
    ):
        load(two)


def test_load__mistyped_path_advises_no_deletion(two: Path) -> None:
    home = two.parent
    for path in (home, home / "step-000099", home / "elsewhere"):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        cure = f"name a checkpoint, --resume {two}"
        assert str(caught.value) == f"{path / 'manifest.json'} is missing; {cure}"
    with pytest.raises(CheckpointError, match=r"is missing; there is no checkpoint here$"):
        load(home / "no" / "such")


def test_load__moved_checkpoint(two: Path) -> None:
    assert_step(load(two.rename(two.parent / "best")), 20)


# --- kill -9 ---

#: Forks a child that saves, and kills it: at a moment of a loop, or just before its n-th file
#: operation. One process forks all children, because importing torch takes longer than the test.
FORKER = """
import itertools, json, os, signal, sys, time
from pathlib import Path
import torch
from llm.runs.checkpoints import save

torch.set_num_threads(1)
os.fsync = lambda descriptor: None
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.scandir",
          "os.listdir", "shutil.rmtree"}

def write(order, step):
    size = order["size"]
    model = {"w": torch.full((size,), float(step))}
    optimizer = {"m": torch.full((size // 2,), -float(step))}
    state = {"step": step, "try": 2}
    save(Path(order["folder"]), step, {"model": model, "optimizer": optimizer}, state,
         keep=order["keep"])

def die_before(operation):
    left = itertools.count(operation, -1)
    def hook(event, arguments):
        if event in EVENTS and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        try:
            if "operation" in order:
                die_before(order["operation"])
                write(order, order["step"])
            else:
                for step in itertools.count(order["step"]):
                    write(order, step)
                    write(order, step)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    if "seconds" in order:
        time.sleep(order["seconds"])
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forker:
    """Saves checkpoints in child processes that are killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, folder: Path, step: int, keep: int | None = None, **when: float) -> bool:
        """Whether the process was killed; otherwise it finished."""
        assert self.process.stdin and self.process.stdout
        size = 50_000 if "seconds" in when else 1000
        order = {"folder": str(folder), "step": step, "keep": keep, "size": size, **when}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        assert code in (0, -9)
        return code == -9


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    with forker.process:
        yield forker
        assert forker.process.stdin
        forker.process.stdin.close()


def assert_all_complete(folder: Path) -> None:
    """Every folder with the name of a checkpoint is complete."""
    for path in folder.iterdir():
        if path.suffix == "":
            assert_step(load(path), int(path.name.removeprefix("step-")))


def test_save__killed_at_random_moments(tmp_path: Path, forker: Forker) -> None:
    moments = random.Random(0)
    folder = tmp_path / "run"
    step, kills, advanced = 0, 0, 0
    while kills < 20 or advanced < 10:
        kills += 1
        assert kills < 500
        assert forker(folder, step, keep=2, seconds=moments.uniform(0, 0.12))
        path = latest(folder)
        if path is None:
            assert step == 0  # killed before the first checkpoint was complete
            continue
        loaded = load(path)
        assert_step(loaded, loaded.step)
        assert loaded.step >= step
        assert_all_complete(folder)
        advanced += loaded.step > step
        step = loaded.step
    save(folder, step + 1, model_of(step + 1), {"step": step + 1}, keep=2)
    assert len(names(folder)) == 2 and all(path.suffix == "" for path in folder.iterdir())


def test_save__killed_before_each_file_operation(tmp_path: Path, forker: Forker) -> None:
    """The save deletes two older checkpoints."""
    for operation in range(500):
        folder = tmp_path / str(operation)
        for step in (1, 2):
            save(folder, step, model_of(step), {"step": step})
        killed = forker(folder, 3, keep=1, operation=operation)
        path = latest(folder)
        assert path
        loaded = load(path)
        assert loaded.step in ((2, 3) if killed else (3,))
        assert_step(loaded, loaded.step)
        assert_all_complete(folder)
        save(folder, 3, model_of(3), {"step": 3}, keep=2)
        assert names(folder)[-1] == "step-000003"
        assert set(names(folder)) <= {"step-000001", "step-000002", "step-000003"}
        assert_all_complete(folder)
        shutil.rmtree(folder)
        if not killed:
            break
    assert 20 < operation < 499


def test_save__killed_while_replacing_the_only_checkpoint(tmp_path: Path, forker: Forker) -> None:
    tries = set()
    for operation in range(500):
        folder = tmp_path / str(operation)
        save(folder, 3, model_of(3), {"step": 3, "try": 1})
        killed = forker(folder, 3, operation=operation)
        path = latest(folder)
        assert path
        loaded = load(path)
        assert_step(loaded, 3)
        tries.add((loaded.state["try"], path.name))
        # The next save, of another step, keeps this checkpoint.
        save(folder, 4, model_of(4), {"step": 4})
        assert names(folder) == ["step-000003", "step-000004"]
        assert load(folder / "step-000003").state == loaded.state
        shutil.rmtree(folder)
        if not killed:
            break
    assert 20 < operation < 499
    assert tries == {(1, "step-000003"), (1, "step-000003.replaced"), (2, "step-000003")}


@pytest.mark.slow
def test_save__killed_while_clearing_leftovers(tmp_path: Path, forker: Forker) -> None:
    """Every state that a killed save leaves, with the next save killed as well."""
    complete = save(tmp_path / "complete", 3, model_of(3), {"step": 3})
    for leftover in ("replaced", "deleted", "part"):
        for operation in range(500):
            folder = tmp_path / f"{leftover}{operation}"
            shutil.copytree(complete, folder / f"step-000003.{leftover}")
            if leftover != "replaced":
                shutil.copytree(complete, folder / "step-000003")
            killed = forker(folder, 3, operation=operation)
            path = latest(folder)
            assert path
            assert_step(load(path), 3)
            assert_all_complete(folder)
            save(folder, 3, model_of(3), {"step": 3})
            assert names(folder) == ["step-000003"]
            shutil.rmtree(folder)
            if not killed:
                break
        assert 20 < operation < 499


def test_save__files_are_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects from power cuts, which no test can cause."""
    folder = tmp_path / "run"
    synced: list[tuple[int, bool]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (folder / "step-000001").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    path = save(folder, 1, model_of(1), {"step": 1})
    before = {inode for inode, named in synced if not named}
    assert {file.stat().st_ino for file in (*path.iterdir(), path, tmp_path)} <= before
    # The folder entry is synced as well.
    assert (folder.stat().st_ino, True) in synced
    # The manifest is the last file; the folder is synced after it.
    order = [inode for inode, _ in synced]
    assert order.index((path / "manifest.json").stat().st_ino) == len(order) - 3
    assert order.index(path.stat().st_ino) == len(order) - 2


def test_save__deletion_begins_with_a_synced_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, model_of(1), {"step": 1})
    events: list[str] = []
    rmtree = shutil.rmtree

    def remove(path: Path) -> None:
        events.append(f"remove {path.name}")
        rmtree(path)

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == tmp_path.stat().st_ino:
            events.append("sync " + " ".join(names(tmp_path)))

    monkeypatch.setattr(shutil, "rmtree", remove)
    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 2, model_of(2), {"step": 2}, keep=1)
    assert events == [
        "sync step-000001 step-000002",
        "sync step-000001.deleted step-000002",
        "remove step-000001.deleted",
    ]


# --- full disks and failed operations ---


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Limit the size of files: writes fail with EFBIG, as Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("where", ["safetensors", "state.json"])
def test_save__failed_write(tmp_path: Path, where: str) -> None:
    for step in (1, 2):
        save(tmp_path, step, model_of(step), {"step": step})
    (tmp_path / "step-000003.part").mkdir()
    big = where == "safetensors"
    tensors = model_of(3, size=100_000 if big else 10)
    state: dict[str, Any] = {"step": 3, "text": "" if big else "x" * 100_000}
    for step in (3, 2):  # a new checkpoint, and a replacement
        with pytest.raises(CheckpointError) as caught, no_file_over(20_000):
            save(tmp_path, step, tensors, state, keep=1)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}: step {step} not saved: ")
        assert "File too large" in message and "\n" not in message
        assert f"it needs {600_000 if big else 60:,} bytes" in message
        assert "bytes are free; free some, or save to another disk" in message
        assert names(tmp_path) == ["step-000001", "step-000002"]
        assert_all_complete(tmp_path)


FULL_DISK = """
import json, os, sys
from pathlib import Path
import torch
from llm.runs.checkpoints import CheckpointError, latest, load, save

folder = Path(sys.argv[1])
save(folder, 1, {"model": {"w": torch.ones(100_000)}}, {})
try:
    save(folder, 2, {"model": {"w": torch.ones(200_000)}}, {}, keep=1)
except CheckpointError as error:
    first = load(latest(folder))
    print(json.dumps([str(error), os.listdir(folder), first.step, int(first.tensors["model"]["w"].sum())]))
"""  # noqa: E501


def on_a_small_disk(folder: Path, options: str, script: str) -> Any:
    """JSON that a script prints, on a file system in a mount namespace that needs no root."""
    mount = f'mount -t tmpfs -o {options} tmpfs "$0"'
    inside = ["unshare", "-rm", "sh", "-c"]
    try:
        subprocess.run([*inside, mount, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("users may not mount here; see test_save__failed_write")
    command = [*inside, f'{mount} && exec "$@"', str(folder), sys.executable, "-c", script]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_save__full_disk(tmp_path: Path) -> None:
    message, left, step, total = on_a_small_disk(tmp_path, "size=1m", FULL_DISK)
    assert message.startswith(f"{tmp_path}: step 2 not saved: ")
    assert "No space left on device" in message and "needs 800,000 bytes" in message
    free = int(message.split("bytes, and ")[1].split()[0].replace(",", ""))
    assert 500_000 < free < 650_000  # 1 MB less the first checkpoint: the .part is deleted
    assert (left, step, total) == (["step-000001"], 1, 100_000)


NO_INODES = """
import json, sys
from pathlib import Path
import torch
from llm.common.atomic_files import append, write_whole
from llm.common.errors import message_of
from llm.runs.checkpoints import CheckpointError, latest, save

folder = Path(sys.argv[1])
model = {"model": {"w": torch.ones(100)}}
save(folder, 1, model, {})
fillers, messages = [], []
try:
    while True:
        fillers.append(folder / f"filler-{len(fillers)}")
        fillers[-1].touch()
except OSError:
    fillers.pop()
for spare in (0, 1, 2):  # no folder, no tensors, no state.json
    for filler in fillers[:spare]:
        filler.unlink()
    try:
        save(folder, 2, model, {})
    except CheckpointError as error:
        messages.append(str(error))
    for filler in fillers[:spare]:
        filler.touch()
for write in (write_whole, append):
    try:
        write(folder / "file", "text")
    except OSError as error:
        messages.append(message_of(error))
print(json.dumps([messages, str(latest(folder))]))
"""


def test_save__no_inode_left(tmp_path: Path) -> None:
    messages, saved = on_a_small_disk(tmp_path, "size=1m,nr_inodes=16", NO_INODES)
    assert len(messages) == 5 and saved == f"{tmp_path}/step-000001"
    for message in messages:
        assert "No space left on device" in message and "bytes are free" not in message
        assert "its file system has no inode left for another file; delete files" in message
    assert all(m.endswith(". The checkpoints before it are untouched") for m in messages[:3])


def test_save__impossible_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"step 1 not saved: .*Not a directory") as caught:
        save(tmp_path / "file" / "run", 1, {}, {})
    assert "bytes" not in str(caught.value)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder closed to everybody")
def test_save__missing_permission_is_not_missing_space() -> None:
    with pytest.raises(CheckpointError, match=r"; make the folder writable, or save to") as caught:
        save(Path("/sys/kernel/checkpoints"), 1, {}, {})
    assert "bytes" not in str(caught.value)


def test_save__ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, model_of(1), {"step": 1})
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.suffix == ".part" and target.suffix == "":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    for step in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, step, model_of(5), {"step": 5})
        assert names(tmp_path) == ["step-000001"]
        assert_step(load(tmp_path / "step-000001"), 1)


def test_save__obsolete_checkpoint_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, model_of(1), {"step": 1})

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(CheckpointError, match=r"step 2 is saved, but .*Permission denied"):
        save(tmp_path, 2, model_of(2), {"step": 2}, keep=1)
    assert latest(tmp_path) == tmp_path / "step-000002"
    assert names(tmp_path) == ["step-000001.deleted", "step-000002"]
