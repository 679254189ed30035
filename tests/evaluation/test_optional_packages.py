import subprocess
import sys


def test_the_evaluation_needs_no_fairlearn():
    code = """
import importlib, pkgutil, sys
sys.modules["fairlearn"] = None  # what an import finds where it is not installed
import cxraug.evaluation, cxraug.cli.main
for module in pkgutil.iter_modules(cxraug.evaluation.__path__, "cxraug.evaluation."):
    importlib.import_module(module.name)
from cxraug.errors import InputError
try:
    importlib.import_module("cxraug.evaluation.mitigation").require_fairlearn()
except InputError as error:
    sys.exit("pip install 'cxraug[fairlearn]'" not in str(error))
sys.exit("no error")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
