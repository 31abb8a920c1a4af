"""What the documentation names exists: links, paths, modules, make targets, presets, params."""

import ast
import re
import tomllib
from itertools import pairwise
from typing import get_args

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from ladder.rungs import names as rungs
from pipeline.preset import names as presets
from reprogpt.config import Config, read_yaml
from reprogpt.config.yaml_file import flatten
from tests.conftest import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md",
         "exercises/README.md", "ladder/README.md", "ladder/page.md", "ladder/sweeps/README.md",
         *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
TEXT = {page: (ROOT / page).read_text() for page in PAGES}
OUTS = ("data/", "metrics/", "models/", "runs/")
"""Folders that the stages write."""


def spans(page: str) -> list[str]:
    """What stands in backquotes, and the lines of indented or fenced code."""
    text = TEXT[page]
    fenced = "\n".join(re.findall(r"(?ms)^```\w*\n(.*?)^```", text)).splitlines()
    return [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"(?m)^    .+$", text), *fenced]


def anchors(page: str) -> set[str]:
    """A heading's name in links, as GitHub makes it."""
    headings = re.findall(r"(?m)^#+ (.+)$", TEXT[page])
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def is_param(dotted: str) -> bool:
    """Whether ``train.batch_ramp.tokens`` is a field of the config's sections."""
    model: object = Config
    for key in dotted.split("."):
        inner = next((m for m in (model, *get_args(model))
                      if isinstance(m, type) and issubclass(m, BaseModel)), None)
        if inner is None or key not in inner.model_fields:
            return False
        model = inner.model_fields[key].annotation
    return True


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    roots = (ROOT, ROOT / "src/reprogpt")
    tops = {p.name for root in roots for p in root.iterdir() if p.is_dir()} - {"data"}
    for span in spans(page):
        for path in re.findall(r"(?<![\w./~-])[a-z]\w+/[\w./-]*\w", span):
            if path.split("/")[0] in tops and not path.startswith(OUTS):
                assert any((root / path).exists() for root in roots), path


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text()))
    params = flatten(read_yaml(ROOT / "presets/shakespeare.yaml"))
    for span in spans(page):
        for module in re.findall(r"-m ((?:pipeline|benchmarks|ladder|tests|reprogpt)[\w.]*)", span):
            path = module.replace(".", "/") if module != "benchmarks.NAME" else "benchmarks/gpu"
            assert any((root / f"{path}.py").is_file() for root in (ROOT, ROOT / "src")), module
        for target in re.findall(r"\bmake (\w+)", span):
            assert target in targets, target
        for plus, key in re.findall(r"-S (\+?)([a-z_.0-9]+)=", span):
            assert is_param(key), key
            assert (key in params) != bool(plus), key


@pytest.mark.parametrize("page", PAGES)
def test_params_exist(page: str) -> None:
    sections = "|".join(name for name, field in Config.model_fields.items()
                        if isinstance(field.annotation, type))
    for span in spans(page):
        for param in re.findall(rf"^((?:{sections})\.[a-z][\w.]*\w)(?=$|[:= ])", span):
            if not re.search(r"\.(py|md|json|csv|yaml|lock)$", param):
                assert is_param(param), param
    for block in re.findall(rf"(?m)^((?: {{4}}|)(?:{sections}):.*\n(?:(?: {{4}})? +.+\n)*)",
                            TEXT[page]):
        for key in flatten(YAML(typ="safe").load(block)):
            assert is_param(key), key


@pytest.mark.parametrize("page", PAGES)
def test_presets_exist(page: str) -> None:
    known = {*presets(ROOT / "presets"), *rungs()}
    rows = re.findall(r"(?m)(?:presets?|rungs?) ((?:`[\w-]+`(?:, | and | to )?)+)", TEXT[page])
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    named |= set(re.findall(r"(?:pipeline\.preset|make preset NAME=) ?([a-z][\w-]+)", TEXT[page]))
    assert named <= known


def test_the_readme_is_short() -> None:
    lines = TEXT["README.md"].splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md"])
def test_lines_fit_a_screen(page: str) -> None:
    assert max(map(len, TEXT[page].splitlines())) <= 100


def test_an_extra_is_installed_from_the_checkout_with_its_pins() -> None:
    """Not as a package of the index, which is somebody else's, nor as a copy of src/."""
    files = [ROOT / page for page in PAGES] + [*ROOT.glob("src/**/*.py"),
                                               *ROOT.glob("pipeline/**/*.py")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = 0
    for file in files:
        text = file.read_text()
        for match in re.finditer(r"'(?:reprogpt|\.)\[(\w+)\]'", text):
            found += 1
            assert match[1] in project["optional-dependencies"], file
            before = text[max(0, match.start() - 70):match.start()]
            assert re.search(r"-c constraints\.txt -e $", before), file
    assert found >= 6


def test_every_switch_is_explained() -> None:
    tree = ast.parse((ROOT / "src/reprogpt/config/recipe.py").read_text())
    for section in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, after in pairwise(section.body):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{section.name}: {ast.unparse(field)}"
    header = (ROOT / "params.yaml").read_text().partition("\npreset:")[0]
    for file in ("sections.py", "recipe.py", "runtime.py"):
        assert file in header


def test_the_checks_find_what_they_check() -> None:
    assert sum(len(spans(page)) for page in PAGES) > 500
    assert is_param("train.batch_ramp.tokens")
    assert not is_param("train.batch_ramp.token")
