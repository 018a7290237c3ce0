import subprocess
import sys


def test_looking_at_data_does_not_import_torch():
    script = """if True:
        import sys
        import chatformer.evaluation.doctor.diagnosis
        import chatformer.evaluation.doctor.report
        print("torch" in sys.modules)
    """
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr
