import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_file_imports_only_from_floors_below_its_own() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_import_mlflow_loads_nothing_of_ours_but_the_entry_point() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore'); import mlflow, sys;"
        "print(sorted(name for name in sys.modules if name.startswith(('kfm_', 'torch', 'ray', 'onnx'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout.splitlines()[-1]))
    assert {name for name in loaded if not name.startswith("kfm_")} == set()
    assert loaded <= {
        "kfm_mlflow",
        "kfm_mlflow.errors",
        "kfm_mlflow.registry",
        "kfm_mlflow.registry.plugin",
    }


def test_the_public_names_are_these() -> None:
    import kfm_mlflow

    assert kfm_mlflow.__all__ == [
        "Contents",
        "CurrentInputs",
        "Dataset",
        "ImportedUnit",
        "Inspected",
        "OpenedRelease",
        "Parent",
        "TensorFact",
        "is_rebuild",
        "log_imported",
        "log_imported_validation",
        "log_release",
        "log_validation",
        "measure_energy",
        "text_field",
    ]
    assert all(callable(getattr(kfm_mlflow, name)) for name in kfm_mlflow.__all__)


def test_documentation_has_a_page_per_format_and_no_dead_link() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "check.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
