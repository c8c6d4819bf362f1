"""TabularMDP files: round trips, files without optional fields, and invalid files."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import MDPError, TabularMDP, garnet
from envs.tabular import load_arrays


def world(sparse: bool = False) -> TabularMDP:
    """Three states, two actions, two successors each."""
    return garnet(3, 2, 2, horizon=4, sparse=sparse)


def arrays_of(mdp: TabularMDP) -> dict[str, Any]:
    """What a file of the MDP must hold, by name."""
    arrays = {"rewards": mdp.rewards, "start": mdp.start, "horizon": mdp.horizon}
    if not mdp.is_sparse:
        return arrays | {"transitions": mdp.transitions}
    rows = mdp.transitions
    return arrays | {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}


def write(path: Path, sparse: bool = False, **changes: Any) -> None:
    """A file of the world with some arrays replaced, or left out where None."""
    arrays = arrays_of(world(sparse)) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


both_kinds = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])


@both_kinds
@pytest.mark.parametrize("time", [{"horizon": 7}, {"discount": 0.1}], ids=str)
def test_round_trip(tmp_path: Path, sparse: bool, time: dict[str, Any]) -> None:
    mdp = dataclasses.replace(world(sparse).with_time(**time), name="Ünïcode")
    path = tmp_path / "world.mdp"
    mdp.save(path)
    assert list(tmp_path.iterdir()) == [path]  # no second suffix
    back = TabularMDP.load(path)
    assert repr(back) == repr(mdp)
    assert (back.horizon, back.discount) == (mdp.horizon, mdp.discount)
    np.testing.assert_array_equal(back.rewards, mdp.rewards)
    np.testing.assert_array_equal(back.start, mdp.start)
    difference = back.flat - mdp.flat
    assert abs(difference).max() == 0


@pytest.mark.parametrize("name", [None, 5, Path("folder/mine")])
def test_save__a_name_that_is_no_text(tmp_path: Path, name: Any) -> None:
    dataclasses.replace(world(), name=name).save(tmp_path / "mdp.npz")
    assert TabularMDP.load(tmp_path / "mdp.npz").name == str(name)


def test_load_under_another_time(tmp_path: Path) -> None:
    world().save(tmp_path / "world.npz")
    mdp = TabularMDP.load(str(tmp_path / "world.npz"), discount=0.5)
    assert (mdp.horizon, mdp.discount) == (None, 0.5)
    assert TabularMDP.load(tmp_path / "world.npz", horizon=2).horizon == 2
    with pytest.raises(MDPError, match="exactly one"):
        TabularMDP.load(tmp_path / "world.npz", horizon=2, discount=0.5)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_load__time_in_an_array_of_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """As scipy reads every number from a file of MATLAB's."""
    mdp = world()
    arrays = {"transitions": mdp.transitions, "rewards": mdp.rewards, "start": mdp.start}
    path = tmp_path / "theirs.npz"
    np.savez(path, **arrays, horizon=np.full(shape, 4.0))
    assert TabularMDP.load(path).horizon == 4
    np.savez(path, **arrays, discount=np.full(shape, 0.5))
    assert TabularMDP.load(path).discount == 0.5
    np.savez(path, **arrays, horizon=np.array([4, 5]))
    with pytest.raises(MDPError, match=r"horizon: array\(\[4, 5\]\) is not a number"):
        TabularMDP.load(path)


@both_kinds
def test_load__file_without_a_name(tmp_path: Path, sparse: bool) -> None:
    path = tmp_path / "theirs.npz"
    write(path, sparse)
    mdp = TabularMDP.load(path)
    assert mdp.name == "theirs" and mdp.horizon == 4
    assert mdp.is_sparse == sparse


@pytest.mark.parametrize("missing", ["rewards", "start", "indices", "indptr"])
def test_missing_array_is_named(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "part.npz"
    write(path, sparse=True, **{missing: None})
    with pytest.raises(MDPError, match=rf"part\.npz: no array {missing}; an MDP file holds"):
        TabularMDP.load(path)


def test_missing_transitions_and_time(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    write(path, transitions=None)
    with pytest.raises(MDPError, match=r"part\.npz: no array data, indices, indptr; .*CSR"):
        TabularMDP.load(path)
    write(path, horizon=None)
    with pytest.raises(MDPError, match=r"part\.npz: holds neither horizon nor discount"):
        TabularMDP.load(path)
    assert TabularMDP.load(path, discount=0.5).discount == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": np.array([0, 1] * 5 + [0, 3])},
        {"indices": np.array([0, 1] * 5 + [0, -1])},
        {"indptr": np.array([0, 2, 3])},
        {"indptr": np.array([0, 4, 2, 6, 8, 10, 12])},
        {"data": np.array([1.0])},
    ],
)
def test_bad_csr_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "bad.npz"
    write(path, sparse=True, **changes)
    with pytest.raises(MDPError, match=r"bad\.npz: not a CSR matrix of shape \(6, 3\): "):
        TabularMDP.load(path)


def test_fractional_csr_indices(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    write(path, sparse=True, indices=np.array([0.5, 1.5] * 6))
    with pytest.raises(MDPError, match=r"bad\.npz: .*indices and indptr must be whole numbers"):
        TabularMDP.load(path)


def test_bad_row_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    write(path, sparse=True, data=world(sparse=True).flat.data / 2)
    with pytest.raises(MDPError, match=r"transitions: state 0, action 0: sums to 0\.5"):
        TabularMDP.load(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        TabularMDP.load(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError, match=rf"{tmp_path.name}: is a folder"):
        TabularMDP.load(tmp_path)


def test_text_is_not_called_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    path.write_text("state,action,next\n0,0,1\n")
    with pytest.raises(
        MDPError, match=r"not a readable \.npz file \(it begins with b'state,'"
    ) as no:
        TabularMDP.load(path)
    assert "pickle" not in str(no.value)
    path.write_bytes(pickle.dumps({"rewards": 1}))
    with pytest.raises(MDPError, match=r"not a readable \.npz file \(.*pickle"):
        TabularMDP.load(path)


@both_kinds
def test_load__rewards_of_states(tmp_path: Path, sparse: bool) -> None:
    path = tmp_path / "states.npz"
    write(path, sparse, rewards=np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(TabularMDP.load(path).rewards, [[1, 1], [2, 2], [3, 3]])


@pytest.mark.parametrize("content", [b"", b"state,action,next\n0,0,1\n", b"\x93NUMPY\x01\x00"])
def test_not_a_numpy_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(MDPError, match=r"other\.npz: not a readable \.npz file"):
        TabularMDP.load(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.npz"
    world().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(MDPError, match=r"cut\.npz: not a readable \.npz file"):
        TabularMDP.load(path)


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "damaged.npz"
    garnet(20, 2, 20).save(path)
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        try:  # a time stamp may be changed unnoticed
            TabularMDP.load(path)
        except MDPError as error:
            assert "damaged.npz" in str(error)


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    write(path, rewards=np.array([{}], dtype=object))
    with pytest.raises(MDPError, match=r"pickled\.npz: not a readable .*allow_pickle=False"):
        TabularMDP.load(path)


def test_a_single_array(tmp_path: Path) -> None:
    path = tmp_path / "one.npy"
    np.save(path, np.eye(2))
    np.testing.assert_array_equal(load_arrays(path)["array"], np.eye(2))
    with pytest.raises(MDPError, match=r"one\.npy: a single array \(\.npy\) of shape"):
        TabularMDP.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": np.nan}, "horizon: nan"),
        ({"horizon": np.inf}, "horizon: inf"),
        ({"horizon": np.array("two")}, "horizon"),
        ({"horizon": np.array([2, 3])}, "horizon"),
        ({"rewards": np.array([["a", "b"]] * 3)}, "rewards"),
    ],
)
def test_fields_that_are_not_numbers(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "odd.npz"
    write(path, **changes)
    with pytest.raises(MDPError, match=message):
        TabularMDP.load(path)
