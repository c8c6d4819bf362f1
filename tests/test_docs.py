"""Pages of the documentation that are made from code, and the script of docs/."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import unicodedata
from pathlib import Path
from typing import Any

import nbformat
import pytest

import cpi
from cpi.bounds import REGISTRY, Bound
from cpi.bounds.symbols import SYMBOLS
from docs.generate import notebooks, reference
from docs.generate.latex import STATEMENTS
from llm.config.train import TrainConfig

SCRIPT = Path(__file__).parents[1] / "docs" / "own_mdp.py"


def test_own_mdp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = runpy.run_path(str(SCRIPT))
    names["plt"].close("all")
    printed = capsys.readouterr().out
    assert (tmp_path / "own_mdp.png").read_bytes().startswith(b"\x89PNG")
    base, tau = names["evaluation"], names["tau"]
    # Right in the middle cell gains .6 of the chance .8² to finish from the next; one step in n
    # is there with probability .8².
    assert base.J == pytest.approx(0.8**4 * 0.4)
    assert base.A.max(axis=-1)[2, 2] == pytest.approx(0.6 * 0.8**2)
    assert f"p_π(0.2) = {0.8**2 / 5:.3f}" in printed
    (gain,) = re.findall(r"at least ([\d.]+) with probability 0.95", printed)
    runs = re.findall(r"certified gain ([\d.]+)", printed)
    exact = cpi.run_cpi(names["mdp"], names["policy"], resets=cpi.oracle_resets(tau), iterations=1)
    assert 0 < float(gain) < exact.iterations[0].certificate and len(runs) == 2


def test_theory_guide__its_programs_run(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (SCRIPT.parent / "guides" / "theory.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out
    assert names["mdp"].discount == 0.99 and "All 29 bounds hold" in printed
    # The constant of a guess is half of the true one, which the tight instances notice.
    assert 0 < names["report"].violations < names["report"].instances


def test_options__has_every_option_of_a_run() -> None:
    page = reference.options()

    def names(settings: Any, prefix: str = "") -> list[str]:
        return [
            name
            for field in dataclasses.fields(settings)
            for name in (
                names(field.default_factory, f"{field.name}.")
                if dataclasses.is_dataclass(field.default_factory)
                else [prefix + field.name]
            )
        ]

    wanted = names(TrainConfig)
    assert len(wanted) > 80
    assert [name for name in wanted if f"| `{name}` |" not in page] == []


def test_bounds__has_every_bound_and_its_constant() -> None:
    page = reference.bounds()
    assert [bound.id for bound in REGISTRY] == re.findall(r"\{ #(\S+) \}", page)
    assert page.count("tight instance: 1.000, on `tight_") > len(REGISTRY) / 2
    assert page.count("<math ") == len(REGISTRY) and all(f"| {s[0]}" in page for s in SYMBOLS)


def symbols(formula: str) -> str:
    """Letters, digits and relations of a formula in LaTeX or plain text, in their order."""
    formula = formula.replace(r"\tfrac{1}{2}", "½").replace(r"\varepsilon", "ε")
    formula = re.sub(r"\\(frac|left|right|l?text|quad|operatorname|math\w+)(?![a-z])", "", formula)
    names = {"alpha": "α", "gamma": "γ", "tau": "τ", "pi": "π", "mu": "μ", "Delta": "Δ", "ge": "≥"}
    names |= {
        "le": "≤",
        "equiv": "≡",
        "sum": "Σ",
        "prod": "Π",
        "infty": "∞",
        "cdot": "·",
        "prime": "'",
    }
    names |= {"max": "max", "Pr": "Pr", "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|"}
    formula = re.sub(r"\\([A-Za-z]+)", lambda match: names[match[1]], formula.replace(r"\|", "‖"))
    formula = unicodedata.normalize("NFKC", formula).replace("−", "-").replace("1⁄2", "½")
    return re.sub(r"[\\\s{}()\[\]_^/,;]", "", formula)


@pytest.mark.parametrize("bound", REGISTRY, ids=lambda bound: bound.id)
def test_latex__has_the_symbols_of_the_statement(bound: Bound) -> None:
    latex, plain = symbols(STATEMENTS[bound.name]), symbols(bound.statement)
    assert re.sub(r"[‖|]", "", latex) == re.sub(r"[‖|]", "", plain)


def test_latex__no_other_bounds() -> None:
    assert STATEMENTS.keys() == {bound.name for bound in REGISTRY}


def test_scripts__sub_and_sup_outside_code() -> None:
    assert reference.scripts("p_w of `p_w`") == "p<sub>w</sub> of `p_w`"
    assert reference.scripts("E_{π'} γ^T ‖·‖_∞ d^π*") == (
        "E<sub>π'</sub> γ<sup>T</sup> ‖·‖<sub>∞</sub> d<sup>π*</sup>"
    )


def test_commands__have_their_help() -> None:
    page = reference.commands()
    assert all(f"usage: python -m {name}" in page for name in reference.COMMANDS)


def test_rendered__text_and_pictures_without_colours_and_warnings() -> None:
    new = nbformat.v4
    outputs = [
        new.new_output("stream", name="stderr", text="a warning"),
        new.new_output("stream", name="stdout", text="\x1b[1mbold\x1b[0m\n"),
        new.new_output("display_data", data={"text/plain": "<Figure>", "image/png": "AAAA"}),
        new.new_output("execute_result", data={"text/plain": "42"}),
    ]
    cells = [new.new_markdown_cell("# Title"), new.new_code_cell("work()", outputs=outputs)]
    files = notebooks.rendered(new.new_notebook(cells=cells), "name")
    page = files.pop("tutorials/name.md")
    assert "```python\nwork()\n```" in page and "```text\nbold\n42\n```" in page
    assert "warning" not in page and files == {"tutorials/name_1.png": b"\0\0\0"}


def test_notebooks__are_stored_without_outputs() -> None:
    for path in (SCRIPT.parent / "tutorials").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
