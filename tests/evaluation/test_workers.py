import os
import signal
import subprocess
import sys

import pytest

from cxraug.evaluation import workers as workers_module
from cxraug.evaluation.workers import forked_map

EQUAL = """
import sys
sys.path.insert(0, "tests/evaluation")
from simulated import table
from cxraug.evaluation import assembly
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.predictions import read_predictions

runs = read_predictions([table(150, validation=50, run=k).assign(arm=f"a{k}", seed=0) for k in range(2)])
settings = EvaluationSettings(groups=("sex", "age"), bootstrap=20, controls=("a0",))
assert "torch" not in sys.modules
found = []
for workers in (1, 3):
    assembly.WORTH_A_FORK, assembly.available = 0, lambda need, workers=workers: workers
    found.append(evaluate(runs, settings))
one, three = found
for name in ("cells", "gaps", "comparison", "curves"):
    assert getattr(one, name).equals(getattr(three, name)), name
assert one.info == three.info
print(len(one.cells), len(one.comparison))
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    offset = 10  # seen by the forked processes, not sent to them
    assert list(forked_map(lambda item: item + offset, range(7), workers)) == list(range(10, 17))


def test_an_error_in_a_worker_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(forked_map(lambda item: 1 / item, [1, 0], 2))


def test_a_killed_worker_leaves_its_work_to_the_caller():
    here = os.getpid()

    def work(item):
        if item == 2 and os.getpid() != here:  # as the kernel does where memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    assert list(forked_map(work, range(6), 2)) == list(range(6))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_no_more_processes_than_there_is_memory_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert workers_module.available(1e15) == 1
    assert workers_module.available(1) == min(len(os.sched_getaffinity(0)), workers_module.MOST)


def test_without_semaphores_the_caller_works_alone(monkeypatch):
    def refuse(*_):
        raise PermissionError("no semaphores here")

    monkeypatch.setattr(workers_module, "ProcessPoolExecutor", refuse)
    assert list(forked_map(str, range(3), 2)) == ["0", "1", "2"]


def test_an_evaluation_in_processes_is_the_same_to_the_last_digit():
    found = subprocess.run([sys.executable, "-c", EQUAL], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert min(map(int, found.stdout.split())) > 100
