"""The scripts and manifests of training/cluster."""

import pathlib
import signal
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "training/cluster"
SUPERVISE = FOLDER / "supervise.sh"


@pytest.mark.parametrize("name", ["supervise.sh", "slurm.sh"])
def test_bash_reads_the_script(name):
    subprocess.run(["bash", "-n", FOLDER / name], check=True)


def test_the_kubernetes_manifest_fits_the_schema():
    yaml = pytest.importorskip("yaml")
    validator = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    service, job = documents
    for document in documents:
        validator.validate(document, validator.latest_version(), strict=True)
    broken = yaml.safe_load(yaml.safe_dump(job))
    broken["spec"]["completion"] = 8
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, validator.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    assert int(environ["TRAINING_WORKERS"]) == job["spec"]["completions"]
    assert environ["TRAINING_SERVICE"] == service["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]


@pytest.mark.parametrize(
    "statuses, expected",
    [
        *(([75, 137, 0], 0), ([75, 2], 2), ([1, 1, 1, 1], 1)),
        *(([75, 143], 143), ([130], 130)),
    ],
)
def test_the_supervisor_starts_again(tmp_path, statuses, expected):
    counter = tmp_path / "runs"
    script = (
        f'echo run >> "{counter}"; statuses=({" ".join(map(str, statuses))}); '
        f'exit "${{statuses[$(wc -l < "{counter}") - 1]}}"'
    )
    environ = {"SUPERVISE_PAUSE": "0", "SUPERVISE_RESTARTS": "3"}
    result = subprocess.run(
        ["bash", SUPERVISE, "bash", "-c", script],
        env=environ | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
    )
    assert result.returncode == expected
    assert len(counter.read_text().split()) == len(statuses)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_supervisor_passes_signals_on(number):
    code = (
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, lambda n, frame: sys.exit(128 + n))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        ["bash", SUPERVISE, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        # Background jobs of a shell ignore SIGINT, and so would bash.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number
