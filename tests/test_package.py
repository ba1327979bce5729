"""What is delivered: metadata, dependencies, documents whose code runs."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import distribution, entry_points
from inspect import getdoc, isabstract, isclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click
import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import evocomp
from bench.cli import main
from bench.evaluation.compressors import SHIPPED
from compress.compressor.network import FILES
from compress.models.caches import TESTED
from compress.models.loading import MODELS

ROOT = Path(__file__).parent.parent
PACKAGES = ("evosearch", "compress", "baselines", "bench")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.relative_to(ROOT / 'docs').as_posix()}" for p in (ROOT / "docs").rglob("*.md")),
)
INSIDE = ("CONTRIBUTING.md", "docs/contributing.md", "docs/families.md")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)}|tests|docs)/[\w./*-]+")
DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
STEP = re.compile(
    r"Write `(?P<file>[\w/]+\.py)`[^`]*add `(?P<entry>\"[\w-]+\": (?P<name>\w+))` to `(?P<table>[A-Z]+)` in\s"
    r"`(?P<place>[\w/]+\.py)`(?:(?!Write `).)*?```python\n(?P<code>.*?)```",
    re.DOTALL,
)  # of CONTRIBUTING: a file, and a line in a dictionary
MACHINE = re.compile(r"(?<![\w.*])/(work|root|home)/|\.\./shared")  # paths that exist on one machine only


@dataclass(frozen=True)
class Step:
    """What CONTRIBUTING says about one extension."""

    file: str
    entry: str
    name: str
    table: str
    place: str
    code: str

    def follow(self, root: Path) -> None:
        """Write the file, and the line with its import."""
        (root / self.file).write_text(self.code, encoding="utf-8")
        place = root / self.place
        module = self.file.removesuffix(".py").replace("/", ".")
        before, opened, rest = place.read_text(encoding="utf-8").partition(f"{self.table}: dict")
        head, brace, entries = rest.partition("{")
        assert opened and brace, self
        imported = f"from {module} import {self.name}\n"
        place.write_text(f"{before}{imported}{opened}{head}{brace}{self.entry}, {entries}", encoding="utf-8")


def lock(path: str = "requirements.lock") -> list[str]:
    lines = (ROOT / path).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def tracked() -> list[str]:
    """Files of the checkout, new ones too, as paths from the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text(document), re.DOTALL)


def run_block(code: str, folder: Path) -> dict[str, object]:
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    return runpy.run_path(str(script), run_name="block")


def test_the_command_is_installed_and_knows_its_version() -> None:
    (command,) = entry_points(group="console_scripts", name="evocomp")
    assert command.load() is evocomp.main
    assert distribution("evocomp").version in CliRunner().invoke(main, ["--version"]).output


def test_every_folder_with_code_is_a_package() -> None:
    """A folder without __init__.py works from a checkout and is missing from what is installed."""
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages_and_the_source_archive_has_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", "..", "sdist", "--dist-dir", ".."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    with ZipFile(*tmp_path.glob("*.whl")) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in tracked() if name.partition("/")[0] in (*PACKAGES, "evocomp.py")}
    with tarfile.open(*tmp_path.glob("*.tar.gz")) as archive:
        held = {one.name.partition("/")[2] for one in archive if one.isfile()}
    assert set(tracked()) - held == set()


def pins(path: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lock(path))}


def test_the_lock_pins_every_requirement_inside_its_range(setup_py: Any) -> None:
    pinned = pins("requirements.lock")
    for need in map(Requirement, [*setup_py.install_requires, *setup_py.extras_require["dev"]]):
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


def test_the_oldest_and_the_newest_admitted_transformers_are_tested(setup_py: Any) -> None:
    """`make versions` runs on these beside the release in requirements.lock."""
    folder = ROOT / "tests" / "versions"
    tested = {Version(path.stem): pins(path.relative_to(ROOT).as_posix()) for path in folder.glob("*.lock")}
    needs = {canonicalize_name(one.name): one for one in map(Requirement, setup_py.install_requires)}
    (floor,) = (one.version for one in needs["transformers"].specifier if one.operator == ">=")
    assert min(tested) == Version(floor)
    assert max(tested).release[:2] == TESTED.release
    assert max(tested) >= Version(pins("requirements.lock")["transformers"])
    for version, pinned in tested.items():
        assert Version(pinned["transformers"]) == version
        assert all(needs[name].specifier.contains(pinned[name]) for name in pinned if name in needs)


def test_the_lock_holds_plain_public_versions() -> None:
    """No local builds, no addresses, and nothing that only one accelerator needs."""
    assert [line for line in lock() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert [line for line in lock() if re.match("nvidia|triton|cuda", line)] == []


def test_no_file_names_a_place_on_one_machine() -> None:
    named = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content and Path(name) != Path(__file__).relative_to(ROOT):
            lines = content.decode("utf-8").splitlines()
            named += [f"{name}:{number}" for number, line in enumerate(lines, 1) if MACHINE.search(line)]
    assert named == []


@pytest.mark.parametrize("number", range(len(blocks("CONTRIBUTING.md"))))
def test_examples_for_contributors_are_complete(number: int, tmp_path: Path) -> None:
    names = run_block(blocks("CONTRIBUTING.md")[number], tmp_path)
    made = [one for one in names.values() if isclass(one) and one.__module__ == "block"]
    assert made and all(getdoc(one) and not isabstract(one) for one in made)


def steps() -> dict[str, Step]:
    """The steps of CONTRIBUTING by the dictionary that gets the line."""
    found = [Step(**match.groupdict()) for match in STEP.finditer(text("CONTRIBUTING.md"))]
    return {step.table: step for step in found if f"class {step.name}" in step.code}


@pytest.mark.slow
def test_contributing_alone_leads_to_a_method_a_grouper_a_benchmark_and_a_family(tmp_path: Path) -> None:
    """Each is the file and the line that CONTRIBUTING names, in a copy of the project."""
    shutil.copy(ROOT / "evocomp.py", tmp_path)
    data = shutil.ignore_patterns("__pycache__", "weights", "shipped")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=data)
    for big in "compress/micro/weights", "bench/shipped":
        (tmp_path / big).symlink_to(ROOT / big)
    wanted = steps()
    assert {"METHODS", "GROUPERS", "TASKS", "FAMILIES", "STRATEGIES"} <= set(wanted)
    for step in wanted.values():
        step.follow(tmp_path)
    script = tmp_path / "use.py"
    script.write_text(USE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all of it works"


USE = """
from pathlib import Path

import torch
from click.testing import CliRunner
from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

import conftest
from bench.cli import main
from evocomp import METHODS, attach, load, render, scene, search_sample

assert main.__module__ == "bench.cli" and Path(conftest.__file__).parent != Path.cwd()


def evocomp(*words):
    done = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


assert "loudest" in evocomp("list", "methods") and "bands" in evocomp("list", "groupers")
assert "spot" in evocomp("list", "tasks") and "crowd" in evocomp("list", "strategies")
assert "spot" in evocomp("eval", "--method", "loudest:order=1", "--keep", "16", "--tasks", "spot", "-n", "2")
image, question = render(scene("test", 9)), "what color is the diamond ?"
chosen = {"grouper": "bands:order=1", "strategy": "crowd", "evaluations": 48}
found = search_sample(load(), image, question, "purple", 16, **chosen)
assert len(found.kept) == 16

conftest.build_tiny(Path("vip"))  # its processor serves this family as well
words = conftest.tokenizer()
config = VipLlavaConfig(
    vision_config=conftest.clip(48), text_config=conftest.LlamaConfig(**conftest.decoder(words)),
    image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=144,
    **{"vision_feature_layers": [-2, 1]},
)
conftest.sharpen(VipLlavaForConditionalGeneration(config)).save_pretrained("vip")
mllm = load("vip")
assert type(mllm).__name__ == "VipLlava" and mllm.visual_tokens == 144
inputs = mllm.prepare([image], ["what color is the star ?"])
plain = mllm.model.generate(**inputs, max_new_tokens=4)
with attach(mllm, METHODS["loudest"](), keep=144):
    assert mllm.model.generate(**inputs, max_new_tokens=4).equal(plain)
with attach(mllm, METHODS["fastv"](), keep=48) as trace:
    mllm.model.generate(**inputs, max_new_tokens=4)
assert abs(sum(trace.samples[0].entering) / mllm.layers - 48) < 0.5
print("all of it works")
"""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_programs_of_users_import_evocomp_alone(document: str) -> None:
    """CONTRIBUTING writes files of the project, which name the module that they import."""
    if document in INSIDE:
        return
    trees = [ast.parse(block) for block in blocks(document)]
    used = [one for tree in trees for one in ast.walk(tree)]
    modules = [one.module or "" for one in used if isinstance(one, ast.ImportFrom)]
    modules += [alias.name for one in used if isinstance(one, ast.Import) for alias in one.names]
    assert [one for one in modules if one.partition(".")[0] in PACKAGES] == []
    wanted = [
        a.name
        for one in used
        if isinstance(one, ast.ImportFrom) and one.module == "evocomp"
        for a in one.names
    ]
    assert set(wanted) <= set(evocomp.__all__)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_documents_exist(document: str) -> None:
    named = {match.rstrip(".") for match in PATH.findall(text(document))} - {
        step.file for step in steps().values()
    }
    assert [one for one in sorted(named) if not any(ROOT.glob(one.rstrip("/")))] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_dotted_names_in_documents_exist(document: str) -> None:
    added = {step.file.removesuffix(".py").replace("/", ".") for step in steps().values()}
    named = {match.removesuffix(".py") for match in DOTTED.findall(text(document))} - added
    assert [one for one in sorted(named) if not exists(one)] == []


def exists(name: str) -> bool:
    """Whether `a.b.c` is a module, or a value inside one."""
    try:
        return pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_outside_the_site_lead_somewhere(document: str) -> None:
    """mkdocs checks those of docs/."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text(document))
    assert [one for one in targets if not (ROOT / one).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_documents_exist(document: str) -> None:
    """Names of commands and of their options; values are the commands' own tests."""
    assert [
        f"{line}: {one}" for line in shell(document) for one in unknown(shlex.split(line, comments=True))
    ] == []


def shell(document: str) -> list[str]:
    """Calls of evocomp: lines of shell blocks, and code in the text. Without the word itself."""
    body = text(document)
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", body, re.DOTALL)).replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    lines += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    calls = (re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:python -m )?evocomp ([a-z-][^|;&]*)", line) for line in lines)
    return [call[1] for call in calls if call]


def unknown(words: list[str]) -> list[str]:
    """The first word of a call that should be a command or an option and is none."""
    command: click.Command = main
    known = set(main.params)
    for word in words:
        if word.startswith("-"):
            offered = {name for param in known for name in (*param.opts, *param.secondary_opts)}
            if re.match("-+[a-zA-Z]", word) and word.partition("=")[0] not in offered | {"--help", "-h"}:
                return [word]
        elif isinstance(command, click.Group) and re.fullmatch("[a-z-]+", word):
            inner = command.get_command(click.Context(command), word)
            if inner is None:
                return [word]
            command, known = inner, known | set(inner.params)
    return []


def test_every_method_is_on_the_page_of_methods_and_in_the_reference() -> None:
    """In the table: a row may hold several names."""
    rows = re.findall(r"^\| (`[^|]*) \|", text("docs/methods.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w+-]+)`", row)}
    assert named >= evocomp.METHODS.keys()
    modules = {method.__module__ for method in evocomp.METHODS.values()}
    pages = "\n".join(text(f"docs/reference/{name}.md") for name in ("baselines", "compress"))
    assert {one for one in modules if not re.search(rf"^::: {one}$", pages, re.MULTILINE)} == set()


def test_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= 150


def test_the_page_on_searching_prints_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks("docs/searching.md")[0]
    (promised,) = re.findall(r"print\(result\.indices.*# (\[.*?\] [\d.]+)", code)
    run_block(code, tmp_path)
    assert capsys.readouterr().out.startswith(promised)


@pytest.mark.skipif(not (SHIPPED / "micro").is_dir(), reason="no compressor is shipped")
@pytest.mark.parametrize("family", ["tiny", "tiny_next", "tiny_qwen"])
def test_the_page_on_usage_runs_in_every_family(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = request.getfixturevalue(family)
    monkeypatch.setitem(MODELS, "micro", Path(mllm.name))
    monkeypatch.chdir(tmp_path)
    names: Any = run_block("\n".join(blocks("docs/usage.md")), tmp_path)
    record = names["record"]
    assert type(names["model"]) is type(mllm.model)
    assert len(record.kept[names["last"]]) < record.tokens <= mllm.visual_tokens
    assert sum(record.entering) / len(record.entering) == pytest.approx(64, abs=0.5)
    assert names["ids"].equal(names["again"])
    assert {one.name for one in (tmp_path / "my-compressor").iterdir()} == set(FILES)
    assert not any(module._forward_pre_hooks for module in names["model"].modules())


@pytest.mark.skipif(
    not (MODELS["micro"].is_dir() and (SHIPPED / "micro").is_dir()),
    reason="the shipped weights are not built",
)
def test_readme_ten_lines_answer_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("README.md") if "attach(" in block]
    run_block(code, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("]")[0] for line in lines] == ["['purple'"] * 2


def test_every_way_to_check_runs_the_targets_of_make_check() -> None:
    """GitHub, .ci/run and the hooks before a commit call make, and nothing beside it."""
    makefile = text("Makefile")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    checks = set(re.sub(r"\$\(\w+\)|--\S+(?: \d+)?", "", recipe).split())
    jobs = yaml.safe_load(text(".github/workflows/check.yml"))["jobs"]
    targets = {name for one in jobs["check"]["strategy"]["matrix"]["target"] for name in one.split()}
    assert targets == checks >= {"lint", "test-all"}
    assert [step["run"] for step in jobs["check"]["steps"] if "run" in step] == ["make ${{ matrix.target }}"]
    assert jobs["release"]["needs"] == "check"
    assert text(".ci/run").splitlines()[-1] == "make check"
    hooks = [
        hook["entry"]
        for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
        for hook in repo["hooks"]
    ]
    assert hooks and {hook.removeprefix("make ") for hook in hooks} <= checks
