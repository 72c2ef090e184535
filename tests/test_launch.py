import pathlib
import shlex
import subprocess
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
RECIPE = ("--", "--config=configs/dpc.py:digits", "--workdir=/runs/a b")
SLURM = ("--time=1:00:00", "--nodes=2", "--gpus=4", "--setup=source venv/bin/activate")
KUBERNETES = ("--name=mine", "--image=registry/jaxrobust", "--claim=runs")
SKY = ("--name=mine", "--accelerators=H100:1", "--bucket=gs://runs")
TPU = ("--name=mine", "--zone=us-east5-b", "--type=v6e-8", "--runtime=v2-alpha-tpuv6e")


def _run(*arguments, script="local", path=None):
    environment = {"PATH": f"{path}:/usr/bin:/bin"} if path else None
    return subprocess.run(
        ["bash", ROOT / "launch" / f"{script}.sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )


def _dry(script, *options):
    """What a script prints with --dry-run."""
    done = _run(*options, "--dry-run", *RECIPE, script=script)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_syntax(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


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
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_wrong_use_prints_the_usage(script, arguments):
    done = _run(*arguments, script=script.stem)
    assert done.returncode == 2
    assert f"usage: launch/{script.name}" in done.stderr


def test_processes_are_told_apart():
    lines = _dry("processes", "--processes=2", "--gpus", "--port=9000").splitlines()
    for i, line in enumerate(lines):
        words = shlex.split(line)
        assert words[:4] == ["env", f"CUDA_VISIBLE_DEVICES={i}", "python", "-m"]
        assert words[5:] == [
            *RECIPE[1:],
            "--coordinator=localhost:9000",
            "--num_processes=2",
            f"--process_id={i}",
        ]
    assert len(lines) == 2


@pytest.fixture
def failing_python(tmp_path):
    """A `python` whose process 1 fails with code 3 and whose process 0 waits for SIGTERM."""
    binary = tmp_path / "bin" / "python"
    binary.parent.mkdir()
    binary.write_text(
        "#!/bin/bash\n"
        "trap 'exit 75' TERM\n"
        '[[ "$*" == *--process_id=1* ]] && { sleep 0.5; exit 3; }\n'
        "while true; do sleep 0.1; done\n"
    )
    binary.chmod(0o755)
    return binary.parent


def test_a_process_that_fails_stops_the_others(failing_python):
    done = _run("--processes=2", *RECIPE, script="processes", path=failing_python)
    assert done.returncode == 3


def test_slurm_job_warns_requeues_and_quotes():
    script = _dry("slurm", *SLURM, "--sbatch=--account=mine", "--partition=gpu")
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --signal=B:TERM@300",
        "#SBATCH --account=mine",
        "#SBATCH --partition=gpu",
        "source venv/bin/activate",
    ):
        assert line in script.splitlines()
    assert r"--distributed --config=configs/dpc.py:digits --workdir=/runs/a\ b" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize("code", [0, 2, 75])
def test_the_slurm_job_requeues_itself_when_preempted(tmp_path, code):
    for name, line in (
        ("srun", f"trap 'exit {code}' TERM; for _ in $(seq 50); do sleep 0.1; done; exit 9"),
        ("scontrol", f'echo "$@" >> {tmp_path}/asked'),
    ):
        command = tmp_path / name
        command.write_text(f"#!/bin/bash\n{line}\n")
        command.chmod(0o755)
    script = _dry("slurm", "--time=1:00:00")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "42"}
    job = subprocess.Popen(["bash", "-c", script], env=environment)
    time.sleep(0.5)
    job.terminate()
    assert job.wait(timeout=20) == code
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 42\n" if code == 75 else "")


def test_kubernetes_manifest():
    manifest = yaml.safe_load(
        _dry(
            "kubernetes",
            *KUBERNETES,
            "--pods=2",
            "--resource=nvidia.com/gpu=8",
            "--selector=cloud.google.com/gke-nodepool=mine",
        )
    )
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (2, 2)
    # Code 2 is the user's mistake and ends the whole; everything else restarts all pods.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-nodepool": "mine"}
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["args"] == [
        *RECIPE[1:],
        "--coordinator=mine-workers-0-0.mine:8476",
        "--num_processes=2",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]


def test_one_pod_needs_no_coordinator():
    assert "--coordinator" not in _dry("kubernetes", *KUBERNETES)


def test_sky_task():
    task = yaml.safe_load(_dry("sky", *SKY, "--nodes=2"))
    assert task["num_nodes"] == 2
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert task["file_mounts"]["/runs"] == {"source": "gs://runs", "mode": "MOUNT"}
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True).returncode == 0


def test_tpu_commands():
    create, archive, copy, start = map(
        shlex.split, _dry("tpu_vm", *TPU, "--spot", "--setup=mount /runs").splitlines()
    )
    assert create[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "mine"]
    assert {"--accelerator-type=v6e-8", "--version=v2-alpha-tpuv6e", "--spot"} <= set(create)
    assert archive[0] == "git" and copy[4] == "scp"
    assert "--worker=all" in start
    command = start[-1].removeprefix("--command=")
    assert command.startswith("mount /runs && ")
    assert shlex.split(command)[-3:] == ["--distributed", *RECIPE[1:]]
