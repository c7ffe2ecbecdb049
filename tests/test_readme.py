import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_five_lines_of_the_readme_work_as_pasted(tmp_path, plain_environ) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) == 5
    environ = {**plain_environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    kfm = Path(sys.executable).parent / "kfm"
    subprocess.run(
        [kfm, "keys", "new", "trainer"], cwd=tmp_path, env=environ, check=True, capture_output=True
    )
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Created version '1' of model 'climate-mini'" in done.stderr + done.stdout
    signatures = list(tmp_path.glob("mlruns/**/release.evidence/release.sig"))
    assert len(signatures) == 1


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    from kfm_mlflow.cli.main import cli

    named = set(re.findall(r"\bkfm ([a-z]+)", text))
    assert named <= set(cli.list_commands(None))
    makefile = (ROOT / "Makefile").read_text()
    assert all(
        f"\n{target}:" in makefile
        for target in set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    )
