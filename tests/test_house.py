"""The rules of the house: what the repository as a whole may and may not hold."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flow.bot.vendors import VENDORS
from flow.domain.calls.bot_part import BotPart
from flow.kit.installed import DISTRIBUTION
from flow.kit.installed import version as installed_version
from flow.settings import Settings

pytestmark = pytest.mark.usefixtures("parsing_undisturbed")

ROOT = Path(__file__).parents[1]

TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitattributes", ".gitignore", "Dockerfile", "LICENSE", "Makefile",
    "README.md", "compose.yaml", "docs", "env.example", "flow", "mkdocs.yml", "pyproject.toml",
    "requirements.lock", "supabase", "tests",
}  # fmt: skip

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("npmmirror", "com"),
        ("deb", "debian", "org"),
    )
]
# pydantic pins pydantic_core to one exact version and documents its use.
OURS_OR_PINNED = {"flow", "pydantic_core"}
HOME_FOLDERS = re.compile(r"(?<![\w.~$}-])/(?:work|root|home|Users)/\w")
# Settings (a word with an underscore, in capitals) and commands, within a sentence.
OPERATORS = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|`(?:flow|make|pip|uv|supabase) ")
# Rooms whose sentences nobody but the operator reads.
OPERATORS_ROOMS = {"admin", "app", "demo", "operate", "sandbox", "telemetry"}
OPERATORS_MODULES = {
    "flow/vendors/posthog_api.py",
    "flow/bot/custom/bot_functions.py",  # stops the start
    "flow/db/schema_dump.py",
    "flow/vendors/unkey_admin.py",
}
SECRETS = {
    "OpenAI key": r"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9]{20,}",
    "PostHog key": r"\bph[cxs]_[A-Za-z0-9]{30,}",
    "Unkey root key": r"\bunkey_[A-Za-z0-9]{16,}",
    "Supabase secret key": r"\bsb_secret_[A-Za-z0-9]{20,}",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}",
    "AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
}


@pytest.fixture(scope="module")
def committed() -> list[Path]:
    """Files that are in the repository or would be with the next commit, relative to its root."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def lines(committed: list[Path]) -> list[tuple[str, str]]:
    """Every line of every text file, with where it stands as ``path:number``."""
    return [
        (f"{path}:{number}", line)
        for path in committed
        for number, line in enumerate(_text(ROOT / path).splitlines(), start=1)
    ]


def test_top_level_holds_only_what_is_agreed(committed: list[Path]) -> None:
    assert {path.parts[0] for path in committed} <= TOP_LEVEL


@pytest.mark.parametrize("host", REGISTRIES)
def test_no_file_names_a_package_registry(host: str, lines: list[tuple[str, str]]) -> None:
    assert [where for where, line in lines if host in line.lower()] == []


def test_no_file_names_a_folder_of_one_machine(lines: list[tuple[str, str]]) -> None:
    assert [where for where, line in lines if HOME_FOLDERS.search(line)] == []


@pytest.mark.parametrize("pattern", SECRETS.values(), ids=SECRETS)
def test_no_file_holds_a_secret(pattern: str, lines: list[tuple[str, str]]) -> None:
    assert [where for where, line in lines if re.search(pattern, line)] == []


def test_env_example_lists_each_setting_once_with_a_comment_and_no_value() -> None:
    rows = (ROOT / "env.example").read_text("utf-8").splitlines()
    assignments = [(above, row) for above, row in pairwise(rows) if re.match(r"[A-Z_]+=", row)]
    assert sorted(row for _, row in assignments) == sorted(f"{v}=" for v in variables())
    assert [row for above, row in assignments if not above.startswith("# ")] == []


def test_the_docs_have_a_row_for_every_vendor() -> None:
    """Its parts, its key and its extra; of those that share a row not every key is told."""
    page = (ROOT / "docs" / "guides" / "vendors.md").read_text("utf-8")
    (table,) = re.findall(r"^\| vendor \| STT .*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    parts = (BotPart.STT, BotPart.LLM, BotPart.TTS, BotPart.REALTIME)
    told = {}
    for row in table.splitlines():
        names, *services, _, key, extra = [cell.strip() for cell in row.strip("|").split("|")]
        able = frozenset(part for part, cell in zip(parts, services, strict=True) if cell)
        for name in re.findall(r"`(\w+)`", names):
            told[name] = (able, key.strip("`") if "..." not in key else None, extra.strip("`"))
    shared = {name for name, (_, key, _) in told.items() if key is None}
    assert told == {
        name: (vendor.parts, None if name in shared else vendor.key, vendor.extra or "")
        for name, vendor in VENDORS.items()
    }


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "flow").rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_every_imported_distribution_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = [*project["dependencies"], *extras]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in sorted((ROOT / "flow").rglob("*.py"))
        for module in _imported(path) - set(sys.stdlib_module_names) - OURS_OR_PINNED
        if declared.isdisjoint(map(canonicalize_name, distributions.get(module, ())))
    }
    assert undeclared == set()


def test_the_package_is_called_what_users_are_told_to_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    assert installed_version() == project["version"]


def test_nobody_is_told_to_install_what_is_somebody_elses(lines: list[tuple[str, str]]) -> None:
    """`flow` on the package index."""
    wrong = re.compile(r"(?<![\w.-])flow\[[a-z]|pip install ['\"]?flow(?![\w-])")
    told = [where for where, line in lines if wrong.search(line)]
    assert [where for where in told if not where.startswith("tests/")] == []


def test_what_customers_may_read_names_nothing_of_the_operators() -> None:
    """No sentence that may leave the service names a setting or a command: hints do, and what
    stops the start."""
    named = {
        f"{path.relative_to(ROOT)}:{node.lineno}: {said}"
        for path in sorted((ROOT / "flow").glob("*/**/*.py"))
        if path.relative_to(ROOT / "flow").parts[0] not in OPERATORS_ROOMS
        and str(path.relative_to(ROOT)) not in OPERATORS_MODULES
        for node, said in _sentences_of_operators(ast.parse(path.read_text("utf-8")))
    }
    assert named == set()


def test_the_extra_all_holds_every_vendors_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (everything,) = map(Requirement, project["optional-dependencies"]["all"])
    assert everything.name == project["name"]
    assert everything.extras == project["optional-dependencies"].keys() - {"all", "sandbox"}
    assert {vendor.extra for vendor in VENDORS.values() if vendor.extra} <= everything.extras


def test_the_service_imports_nothing_of_the_extra_that_the_stand_ins_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    vendors = [line for name, lines in extras.items() if name != "sandbox" for line in lines]
    of_service, of_sandbox = (
        {canonicalize_name(Requirement(line).name) for line in lines}
        for lines in ([*project["dependencies"], *vendors], extras["sandbox"])
    )
    distributions = importlib.metadata.packages_distributions()
    modules = {
        module
        for module, names in distributions.items()
        if (owners := set(map(canonicalize_name, names))) & of_sandbox and not owners & of_service
    }
    paths = [
        path
        for path in sorted((ROOT / "flow").rglob("*.py"))
        if path.relative_to(ROOT / "flow").parts[0] not in {"sandbox", "demo", "dev.py"}
    ]
    assert "espeakng_loader" in modules
    assert {str(path) for path in paths if _imported(path) & modules} == set()


def test_the_service_starts_without_the_extra_of_the_stand_ins() -> None:
    program = (
        "import sys\n"
        "for name in ('espeakng_loader', 'python_multipart', 'multipart', 'flow.sandbox'):\n"
        "    sys.modules[name] = None\n"
        "import flow.app.asgi, flow.app.workflow_worker, flow.app.bots, flow.bot.warmup\n"
        "import flow.api.app, flow.workflows.finish_workflow, flow.bot.calls.call_manager\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_without_its_extra_a_command_says_what_to_install(command: str) -> None:
    program = (
        "import sys\n"
        "sys.modules['espeakng_loader'] = None\n"
        f"sys.argv = ['flow', '{command}']\n"
        "from flow.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"flow: `flow {command}` needs the extra `sandbox`, of which espeakng_loader is missing"
        " here: pip install 'flow-voice[sandbox]', or, in a checkout, `make " + command + "`.\n"
    )


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asked = project["project"]["dependencies"] + [
        line for group in project["dependency-groups"].values() for line in group
    ]
    locked = _locked_versions()
    unmet = [
        line
        for line in asked
        if isinstance(line, str)
        and not all(
            Requirement(line).specifier.contains(version)
            for version in locked.get(canonicalize_name(Requirement(line).name), ["0"])
        )
    ]
    assert unmet == [], "run `make lock`"


def test_help_imports_neither_pipecat_nor_fastapi() -> None:
    program = (
        "import sys; sys.argv = ['flow', '--help']\n"
        "from flow.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'pipecat', 'fastapi', 'dbos', 'supabase', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout


def _text(path: Path) -> str:
    """The file's text, or nothing for a binary file."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def _imported(path: Path) -> set[str]:
    """Top-level names of all modules the file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def variables() -> list[str]:
    """The environment variables that are read, by the name that is documented."""
    vendors = [vendor for name, vendor in VENDORS.items() if name != "openai"]
    prefix = Settings.model_config["env_prefix"]
    return [
        f"{prefix}{name.upper()}" if field.validation_alias is None else name.upper()
        for name, field in Settings.model_fields.items()
    ] + [name for vendor in vendors for name in (vendor.key, vendor.base_url_variable)]


def _locked_versions() -> dict[str, list[str]]:
    found = re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE
    )
    versions: dict[str, list[str]] = {}
    for name, version in found:
        versions.setdefault(canonicalize_name(name), []).append(version)
    return versions


def _sentences_of_operators(tree: ast.Module) -> Iterator[tuple[ast.Constant, str]]:
    """Literals of several words that name a setting or a command, but for docstrings, hints, log
    lines and what is raised where no call can be."""
    silent: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name.endswith(("hint", "needed")):
            silent |= set(ast.walk(node))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            is_hint = node.targets[0].id.lower().endswith("hint")
            silent |= set(ast.walk(node)) if is_hint else set()
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            of_log = getattr(getattr(node.func, "value", None), "id", "") in {"log", "logger"}
            # A configuration is wrong at the start; in a call it is answered without its text.
            silent |= set(ast.walk(node)) if of_log or name == "ConfigurationError" else set()
            for keyword in node.keywords:
                silent |= set(ast.walk(keyword)) if keyword.arg == "hint" else set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if node not in silent and " " in node.value.strip() and OPERATORS.search(node.value):
            yield node, node.value[:80]
