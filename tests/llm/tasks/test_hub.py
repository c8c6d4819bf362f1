"""Data sets of the hub, loaded from the local caches without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llm.sandboxes import skip_without_sandbox
from tests.llm.tasks.rows import SCHEMAS, write

SCRIPT = """\
import sys
from llm.tasks import make_task
try:
    task = make_task(sys.argv[1], **eval(sys.argv[2]))
    print(len(task.examples("train")), len(task.examples("test")), task.examples("test")[0].id)
except ValueError as error:
    print(error)
"""

ALLOWED = {"allow_code": True}
REMEDY = (
    "HF_HUB_OFFLINE=1 if it has been downloaded before, or name local files with --task_args.path"
)


def offline(home: Path, name: str, **options: object) -> str:
    """Output of a process without a network, with its hub caches in `home`."""
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name_of_cache in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        env.pop(name_of_cache, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, repr(options)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_hub__a_cached_data_set_loads_offline(tmp_path: Path) -> None:
    from datasets import load_dataset

    make, _, _ = SCHEMAS["gsm8k"]
    files = {
        split: str(write(tmp_path / f"{split}.jsonl", [make(i) for i in range(*span)]))
        for split, span in (("train", (0, 6)), ("test", (6, 9)))
    }
    made = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "made"))
    (folder,) = {Path(made[s].cache_files[0]["filename"]).parent for s in files}
    # Layout of the cache: owner and name, configuration, version, fingerprint.
    home = tmp_path / "home"
    cached = home / "datasets" / "openai___gsm8k" / "main" / "0.0.0" / ("0" * 40)
    cached.mkdir(parents=True)
    for split in files:
        shutil.copy(folder / f"json-{split}.arrow", cached / f"gsm8k-{split}.arrow")
    info = json.loads((folder / "dataset_info.json").read_text())
    info.update(builder_name="parquet", dataset_name="gsm8k", config_name="main")
    for split in info["splits"].values():
        split["dataset_name"] = "gsm8k"
    (cached / "dataset_info.json").write_text(json.dumps(info))
    assert offline(home, "gsm8k").startswith("6 3 test-")


@pytest.mark.slow
def test_hub__cached_files_of_a_repository_load_offline(tmp_path: Path) -> None:
    skip_without_sandbox()
    make, _, _ = SCHEMAS["livecodebench_v6_medium"]
    name = "datasets--livecodebench--code_generation_lite"
    repo, commit = tmp_path / "hub" / name, "0123456789" * 4
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for k in range(1, 7):
        file = f"test{k if k > 1 else ''}.jsonl"
        write(snapshot / file, [make(i) for i in range(10 * k, 10 * k + 10)])
    printed = offline(tmp_path, "livecodebench_v6_medium", verifier_args=ALLOWED, test=8)
    assert printed.startswith("40 8 abc")
    newest = offline(
        tmp_path, "livecodebench_v6_medium", verifier_args=ALLOWED, test=3, files="test6.jsonl"
    )
    assert newest.startswith("5 3 abc6")
    with (snapshot / "test2.jsonl").open("a") as file_of_rows:
        file_of_rows.write('{"question_id"\n')
    broken = offline(tmp_path, "livecodebench_v6_medium", verifier_args=ALLOWED, test=8)
    assert broken.startswith(
        "task: livecodebench/code_generation_lite/test2.jsonl cannot be read as json, row 11: "
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "livecodebench_v6_medium"])
def test_hub__an_empty_cache_is_one_line_of_error(name: str, tmp_path: Path) -> None:
    if "code" in name:
        skip_without_sandbox()
    options = {"verifier_args": ALLOWED} if "code" in name else {}
    printed = offline(tmp_path, name, **options)
    data = "openai/gsm8k (main, test)" if name == "gsm8k" else "livecodebench/code_generation_lite/"
    assert printed.startswith(f"task: {data}") and printed.endswith(REMEDY)
    assert "\n" not in printed
