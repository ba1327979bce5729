"""What is delivered: metadata, dependencies, documents whose code runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from inspect import getdoc, isabstract, isclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.cli import main
from bench.evaluation.compressors import SHIPPED
from compress.compressor.network import FILES
from compress.models.loading import MODELS

ROOT = Path(__file__).parent.parent
PACKAGES = ("evosearch", "compress", "baselines", "bench")
MACHINE = re.compile(r"(?<![\w.*])/(work|root|home)/|\.\./shared")  # paths that exist on one machine only


def lock() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def run_block(code: str, folder: Path) -> dict[str, object]:
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    return runpy.run_path(str(script), run_name="block")


def test_the_command_is_installed_and_knows_its_version() -> None:
    (command,) = entry_points(group="console_scripts", name="evocomp")
    assert command.load() is main
    assert distribution("evocomp").version in CliRunner().invoke(main, ["--version"]).output


def test_every_folder_with_code_is_a_package() -> None:
    """A folder without __init__.py works from a checkout and is missing from what is installed."""
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_what_is_installed_has_every_file(tmp_path: Path) -> None:
    """Weights, templates and modules: all that lies in the four packages, nothing left behind."""
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    assert files(ROOT) - files(tmp_path) == set()


def files(root: Path) -> set[str]:
    found = (path.relative_to(root) for name in PACKAGES for path in (root / name).rglob("*"))
    return {path.as_posix() for path in found if (root / path).is_file() and "__pycache__" not in path.parts}


def test_the_lock_pins_every_requirement_inside_its_range() -> None:
    pins = (line.split("==") for line in lock())
    pinned = {canonicalize_name(name): version for name, version in pins}
    for need in map(Requirement, distribution("evocomp").requires or []):
        if need.marker and not need.marker.evaluate({"extra": "dev"}):
            continue  # other extras are the user's choice
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


def test_the_lock_holds_plain_public_versions() -> None:
    """No local builds, no addresses, and nothing that only one accelerator needs."""
    assert [line for line in lock() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert [line for line in lock() if re.match("nvidia|triton|cuda", line)] == []


def test_no_file_names_a_place_on_one_machine() -> None:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout.split("\0")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    named = []
    for name in filter(None, listed):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content and Path(name) != Path(__file__).relative_to(ROOT):
            lines = content.decode("utf-8").splitlines()
            named += [f"{name}:{number}" for number, line in enumerate(lines, 1) if MACHINE.search(line)]
    assert named == []


@pytest.mark.parametrize("number", range(len(blocks("CONTRIBUTING.md"))))
def test_examples_for_contributors_are_complete(number: int, tmp_path: Path) -> None:
    names = run_block(blocks("CONTRIBUTING.md")[number], tmp_path)
    made = [one for one in names.values() if isclass(one) and one.__module__ == "block"]
    assert made and all(getdoc(one) and not isabstract(one) for one in made)


def test_readme_search_prints_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("README.md") if "evosearch" in block]
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
