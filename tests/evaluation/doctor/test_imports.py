import subprocess
import sys


def test_looking_at_data_does_not_import_torch():
    script = """if True:
        import sys
        import datasets
        # Earlier versions of datasets import it themselves.
        is_there = "torch" in sys.modules
        import chatformer.evaluation.doctor.diagnosis
        import chatformer.evaluation.doctor.report
        print("torch" in sys.modules and not is_there)
    """
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr
