"""What is written for administrators is true: manual pages, ecs.config and completion against the
programs and the table of settings."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
from harness.node import programs_dir

TOP = pathlib.Path(__file__).resolve().parents[2]
MAN = TOP / "packaging" / "man"
COMPLETION = TOP / "packaging" / "completion"
CONFIG = TOP / "packaging" / "ecs.config"


def program(name):
    path = programs_dir() / name
    if not path.exists():
        pytest.skip(f"{name} is not installed in {path.parent} (ECS_PROGRAMS)")
    return str(path)


def usage(name):
    return subprocess.run([program(name), "--help"], check=True, capture_output=True, text=True).stdout


def options(name):
    found = re.findall(r"^  (--[a-z-]+)", usage(name), re.M)
    assert len(found) >= 5, f"{name} --help lists {found}"
    return found


def image_commands():
    text = usage("ecs-image")
    listed = text[text.index("Commands:") : text.index("Options:")]
    found = re.findall(r"^  ([a-z]+) ", listed, re.M)
    assert "pull" in found
    return found


# Settings: the table is C, but its macros are regular.


def macros():
    """Constants that defaults are written with."""
    text = (TOP / "netns" / "protocol.h").read_text()
    return dict(re.findall(r'^#define (\w+) +"([^"]*)"', text, re.M))


def default_of(text):
    text = text.strip()
    if text == "NULL":
        return None
    if text.startswith('"'):
        return text[1:-1].replace('\\"', '"')
    return macros()[text]


class Settings:
    """agent/config/settings.c: names with their defaults, and names that are not supported."""

    def __init__(self):
        text = (TOP / "agent" / "config" / "settings.c").read_text()
        table = text[text.index("const struct setting settings[]") :]
        self.defaults = {}
        simple = r'\b(?:STRING|BOOLEAN|DURATION|NUMBER)\("(\w+)", \w+,\s*("(?:[^"\\]|\\.)*"|NULL)'
        for name, default in re.findall(simple, table):
            self.defaults[name] = default_of(default)
        for entry in re.findall(r"\{\.name = .*?\},", table, re.S):
            name = re.search(r'\.name = "(\w+)"', entry)[1]
            default = re.search(r'\.default_text = ("(?:[^"\\]|\\.)*"|\w+)', entry)
            self.defaults[name] = default_of(default[1]) if default else None
        for name in re.findall(r'\bPASSED_(?:ON|SECRET)\("(\w+)"\)', table):
            self.defaults[name] = None
        self.fatal = {
            re.search(r'\.name = "(\w+)"', entry)[1]
            for entry in re.findall(r"\{\.name = .*?\},", table, re.S)
            if ".is_fatal = true" in entry
        }
        self.unsupported = set(re.findall(r'\b(?:UNSUPPORTED|FOREIGN)\(\s*"(\w+)"', table))
        named = set(re.findall(r'"((?:ECS|NON_ECS|NONECS|AWS|SSL|CREDENTIALS)_[A-Z0-9_]+)"', table))
        missed = named - set(self.defaults) - self.unsupported
        assert not missed, f"this test does not understand the entries of {missed}"


@pytest.fixture(scope="module")
def settings():
    return Settings()


def lines_of_config():
    """Each "#NAME=value" of the installed ecs.config."""
    return re.findall(r"^#([A-Za-z_0-9]+)=(.*)$", CONFIG.read_text(), re.M)


# For AWS services that no released version calls; ecs.config(5) names them, ecs.config does not.
SPARE = {f"AWS_ENDPOINT_URL_{name}" for name in ("EC2", "S3", "SECRETS_MANAGER", "SSM", "STS")}


def test_ecs_config_has_each_supported_setting_with_its_default(settings):
    lines = lines_of_config()
    names = [name for name, _ in lines]
    assert len(names) == len(set(names)), "a variable is there twice"
    expected = {name for name in settings.defaults if name == name.upper()} - SPARE
    assert set(names) == expected
    for name, value in lines:
        if name == "ECS_DYNAMIC_HOST_PORT_RANGE":  # the kernel's comes before the table's
            continue
        assert value == (settings.defaults[name] or ""), name


def test_ecs_config_sets_nothing_by_itself():
    for line in CONFIG.read_text().splitlines():
        assert not line or line.startswith("#"), line


def test_each_line_of_ecs_config_is_taken_by_the_agent(tmp_path):
    """With all lines in force that have a value, --check-config has nothing to complain about."""
    path = tmp_path / "ecs.config"
    path.write_text("".join(f"{name}={value}\n" for name, value in lines_of_config() if value))
    ran = subprocess.run(
        [program("ecs-agent"), "--check-config", "--config", str(path)],
        check=True, capture_output=True, text=True,
        env={name: os.environ[name] for name in ("PATH", "ASAN_OPTIONS") if name in os.environ},
    )  # fmt: skip
    assert "warning" not in ran.stdout
    for name, value in lines_of_config():
        if value:
            assert f"{name}=" in ran.stdout


def test_allowed_host_paths_are_a_known_setting(tmp_path):
    path = tmp_path / "ecs.config"
    path.write_text("ECS_ALLOWED_HOST_PATHS=/srv:/data\n")
    ran = subprocess.run(
        [program("ecs-agent"), "--check-config", "--config", str(path)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "ECS_ALLOWED_HOST_PATHS=/srv:/data  (ecs.config line 1)" in ran.stdout
    assert "warning" not in ran.stdout


def sections_of_ecs_config_5():
    """Each variable of ecs.config(5) with what is said of it."""
    page = (MAN / "ecs.config.5").read_text()
    variables = page[page.index(".Sh VARIABLES\n") : page.index(".Sh VARIABLES THAT ARE NOT SUPPORTED")]
    parts = re.split(r"^\.It Ev (.*)$", variables, flags=re.M)
    found = {}
    for names, text in zip(parts[1::2], parts[2::2]):
        for name in names.replace(",", " ").split():
            found[name] = re.split(r"^\.(?:El\n\.Ss|El\n\.Pp)", text, maxsplit=1, flags=re.M)[0]
    spare = re.findall(r"AWS_ENDPOINT_URL_\w+", variables)
    return found | {name: "" for name in spare if name not in found}


def test_ecs_config_5_explains_each_supported_setting(settings):
    sections = sections_of_ecs_config_5()
    assert set(sections) == set(settings.defaults)
    for name, default in settings.defaults.items():
        if default is not None:
            assert f".Ql {default} .\n" in sections[name], f"the default of {name} is {default}"
        is_fatal = ".Em fatal ." in sections[name]
        assert is_fatal == (name in settings.fatal), f"{name}: fatal or not"


def test_ecs_config_5_names_each_setting_that_is_not_supported(settings):
    page = (MAN / "ecs.config.5").read_text()
    listed = page[page.index(".Sh VARIABLES THAT ARE NOT SUPPORTED") : page.index(".Sh FILES")]
    names = re.findall(r"^\.Ev (\w+) [,.]$", listed, re.M)
    assert sorted(names) == sorted(settings.unsupported)


@pytest.mark.parametrize("page", sorted(path.name for path in MAN.iterdir()))
def test_manual_pages_have_no_mistakes(page):
    # "style" complains of pages that are not installed where the test runs.
    ran = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(MAN / page)], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("name, page", [("ecs-agent", "ecs-agent.8"), ("ecs-image", "ecs-image.1")])
def test_manual_pages_explain_the_options_that_there_are(name, page):
    text = (MAN / page).read_text()
    explained = {f"--{option}" for option in re.findall(r"^\.It Fl -([a-z-]+)", text, re.M)}
    assert explained == set(options(name))


def test_ecs_image_1_explains_the_commands_that_there_are():
    explained = re.findall(r"^\.It Cm ([a-z]+)", (MAN / "ecs-image.1").read_text(), re.M)
    assert sorted(explained) == sorted(image_commands())


def test_ecs_agent_8_names_the_paths_of_the_programs():
    text = (MAN / "ecs-agent.8").read_text()
    header = (TOP / "lib" / "options.h").read_text()
    for name in ("CONFIG", "STATE_DIR", "RUNTIME_DIR"):
        default = re.search(rf'OPTIONS_{name}_DEFAULT +"([^"]+)"', header)[1]
        assert f".Pa {default}" in text, default


# Completion


@pytest.fixture
def path_with_programs(tmp_path):
    """PATH on which ecs-agent and ecs-image are, as an installation has them."""
    for name in ("ecs-agent", "ecs-image"):
        (tmp_path / name).symlink_to(program(name))
    return f"{tmp_path}:{os.environ['PATH']}"


def complete_in_bash(path, *words):
    script = f"""
        compopt() {{ :; }}
        . {COMPLETION / "ecs.bash"}
        COMP_WORDS=({" ".join(repr(word) for word in words)}) COMP_CWORD={len(words) - 1}
        _ecs {words[0]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(
        ["bash", "--norc", "-c", script], check=True, capture_output=True, text=True,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    assert ran.stderr == ""
    return sorted(filter(None, ran.stdout.split("\n")))


@pytest.mark.parametrize("name", ["ecs-agent", "ecs-image"])
def test_bash_completes_the_options_that_there_are(path_with_programs, name):
    assert complete_in_bash(path_with_programs, name, "--") == sorted(options(name))
    assert complete_in_bash(path_with_programs, name, "--ver") == ["--version"]


def test_bash_completes_the_commands_that_there_are(path_with_programs):
    assert complete_in_bash(path_with_programs, "ecs-image", "") == sorted(image_commands())
    assert complete_in_bash(path_with_programs, "ecs-image", "--state-dir", "/x", "p") == ["pull"]
    assert complete_in_bash(path_with_programs, "ecs-agent", "") == ["exec"]
    assert complete_in_bash(path_with_programs, "ecs-image", "pull", "") == []


def test_bash_completes_files_after_options_that_take_one(path_with_programs, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there.config").touch()
    start = f"{tmp_path}/th"
    assert complete_in_bash(path_with_programs, "ecs-agent", "--state-dir", start) == [f"{tmp_path}/there"]
    assert complete_in_bash(path_with_programs, "ecs-agent", "--config", start) == [
        f"{tmp_path}/there",
        f"{tmp_path}/there.config",
    ]


def complete_in_zsh(path, *words):
    # The completion system of zsh is left out: what is handed to it is looked at.
    script = f"""
        _describe() {{ print -l -- "${{(@)${{(P)2}}}}" }}
        _files() {{ print files "$@" }}
        words=({" ".join(repr(word) for word in words)}) CURRENT={len(words)}
        . {COMPLETION / "ecs.zsh"}
    """
    ran = subprocess.run(
        ["zsh", "-f", "-c", script], check=True, capture_output=True, text=True,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def test_zsh_completes_options_commands_and_files(path_with_programs):
    assert shutil.which("zsh"), "zsh must be installed"
    for name in ("ecs-agent", "ecs-image"):
        offered = complete_in_zsh(path_with_programs, name, "--")
        assert sorted(line.split(":")[0] for line in offered) == sorted(options(name))
    offered = complete_in_zsh(path_with_programs, "ecs-image", "")
    assert sorted(line.split(":")[0] for line in offered) == sorted(image_commands())
    assert complete_in_zsh(path_with_programs, "ecs-agent", "") == ["exec"]
    assert complete_in_zsh(path_with_programs, "ecs-agent", "--state-dir", "") == ["files -/"]
