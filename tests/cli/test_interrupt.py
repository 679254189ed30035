"""Ctrl-C ends a command with one line and exit code 130, and what was made stays."""

import os
import signal
import subprocess
import sys
import time


def test_ctrl_c_says_that_what_was_finished_stays(tmp_path):
    command = "import sys; from cxraug.cli.main import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["phantom", "--n", "4000", "--seed", "0", "--out", str(tmp_path / "ph")]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell hands down "ignored"
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("ph/images/*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("interrupted; what was finished stays, run again to go on")
    assert "Traceback" not in errors
    assert any((tmp_path / "ph" / "images").iterdir())
