import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LOCAL = ROOT / "launch" / "local.sh"


def _run(*arguments, cwd=ROOT, path=None):
    environment = {"PATH": f"{path}:/usr/bin:/bin"} if path else None
    return subprocess.run(
        ["bash", LOCAL, *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )


def test_dry_run_prints_one_command_per_method_and_seed():
    done = _run(
        "--out=runs/x", "--methods=dcfs,random", "--seeds=0,1", "--dry-run", "--", "--config=c.py"
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert lines[3].split() == [
        "python",
        "-m",
        "jaxrobust.main",
        "--config=c.py",
        "--config.seed=1",
        "--workdir=runs/x/random_1",
        "--config.method=random",
    ]


@pytest.fixture
def fake_python(tmp_path):
    """A `python` that is preempted once, then writes results."""
    binary = tmp_path / "bin" / "python"
    binary.parent.mkdir()
    binary.write_text(
        "#!/bin/bash\n"
        'for a in "$@"; do [[ $a == --workdir=* ]] && w=${a#*=}; done\n'
        'mkdir -p "$w"; echo x >> "$w/calls"\n'
        '[[ -e $w/seen ]] || { touch "$w/seen"; exit 75; }\n'
        "[[ $w == *bad* ]] && exit 2\n"
        'touch "$w/results.json"\n'
    )
    binary.chmod(0o755)
    return binary.parent


def test_a_preempted_run_is_started_again_and_a_finished_one_is_skipped(tmp_path, fake_python):
    command = (f"--out={tmp_path}/good", "--seeds=0", "--", "--config=c.py")
    for _ in range(2):
        assert _run(*command, path=fake_python).returncode == 0
    assert (tmp_path / "good/recipe_0/calls").read_text() == "x\nx\n"


def test_a_failed_run_stops_the_sweep_with_its_code(tmp_path, fake_python):
    done = _run(f"--out={tmp_path}/bad", "--seeds=0,1", "--", "--config=c.py", path=fake_python)
    assert done.returncode == 2
    assert "bad/recipe_0 stopped with code 2" in done.stderr
    assert not (tmp_path / "bad/recipe_1").exists()


@pytest.mark.parametrize("arguments", [(), ("--out=x",), ("--oot=x", "--", "--config=c.py")])
def test_wrong_use_prints_the_usage(arguments):
    done = _run(*arguments)
    assert done.returncode == 2
    assert "usage: launch/local.sh" in done.stderr
