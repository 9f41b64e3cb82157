import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from sslcli.cli.main import INTERRUPTED, cli
from sslcli.errors import SslcliError
from sslcli.recipe import recipe_problems

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def fenced(language):
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_what_the_commands_and_schemas_say(generate):
    assert generate.drifted(generate.REFERENCE, generate.pages()) == [], "run `make docs` and commit"


def test_drift_is_named(generate, tmp_path):
    wanted = {"a.md": "now", "b.md": "same", "c.md": "new"}
    generate.write(tmp_path, {"a.md": "then", "b.md": "same", "d.md": "forgotten"})
    assert generate.drifted(tmp_path, wanted) == ["a.md", "c.md", "d.md"]


def test_check_fails_on_drift_and_mends_it(generate, tmp_path, monkeypatch, capsys):
    generate.write(tmp_path, {**generate.pages(), "cli.md": "old"})
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert capsys.readouterr().err == "docs/reference/cli.md had drifted and was written anew: commit it\n"
    assert generate.main() == 0


def test_every_command_has_its_section(generate):
    page = generate.cli_page(cli)
    for path in commands():
        assert f"\n## sslcli {path}\n" in page


def test_bench_is_documented_as_the_function_that_the_package_calls(generate):
    section = generate.api_page().split("\n## sslcli.bench\n")[1].split("\n## ")[0]
    arguments = re.findall(r"^    (\w+)[,=]", section, flags=re.MULTILINE)
    described = re.findall(r"^    (\w+): ", section.partition("Raises:")[0], flags=re.MULTILINE)
    assert arguments == described
    assert arguments[0] == "base"


@pytest.mark.parametrize("source", fenced("python"))
def test_python_of_the_readme_parses(source):
    ast.parse(source)


@pytest.mark.parametrize("recipe", fenced("yaml"))
def test_recipes_of_the_readme_are_valid(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    _, problems = recipe_problems(path)
    assert [str(problem) for problem in problems] == []


def test_readme_has_both_kinds_of_blocks():
    assert fenced("python")
    assert any("steps" in yaml.safe_load(block) for block in fenced("yaml"))


def test_commands_that_the_readme_names_exist():
    named = set(re.findall(r"\bsslcli ([a-z][a-z-]*)", code_of_the_readme()))
    assert named >= {"regularize", "prune", "export", "bench"}
    assert named <= set(cli.list_commands(click.Context(cli)))


def test_command_lines_of_the_readme_have_known_options():
    lines = [line for line in shell_lines() if line.startswith("sslcli ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)[1:]
        command, words = command_of(words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        unknown = {word for word in words if word.startswith("-")} - known - {"--help", "-h"}
        assert not unknown, line


def test_the_table_of_commands_is_complete():
    text = README.read_text(encoding="utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"| `{name}" in text


def test_the_table_of_exit_codes_is_complete():
    table = README.read_text(encoding="utf-8").split("## Exit codes")[1].split("\n## ")[0]
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)]
    raised = {kind.exit_code for kind in (SslcliError, *SslcliError.__subclasses__())}
    assert listed == sorted({0, INTERRUPTED} | raised)


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", code_of_the_readme()))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def test_links_of_the_readme_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def code_of_the_readme():
    """Fenced blocks and words between backquotes: prose may speak of sslcli without naming a command."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n.*?^```$", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def shell_lines():
    """The lines of the sh blocks, continuations joined."""
    return [line for block in fenced("sh") for line in block.replace("\\\n", " ").splitlines()]


def command_of(words):
    found = cli
    while isinstance(found, click.Group) and words:
        found, words = found.get_command(click.Context(found), words[0]), words[1:]
    return found, words


def commands(group=cli, path=""):
    for name in group.list_commands(click.Context(group)):
        child = group.get_command(click.Context(group), name)
        yield f"{path}{name}"
        if isinstance(child, click.Group):
            yield from commands(child, f"{path}{name} ")
