from __future__ import annotations

from kfm_mlflow.metadata.packages import resolved_packages


def _install(folder, name):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return str(folder)


def test_what_a_package_brings_for_itself_alone_is_not_installed(tmp_path, monkeypatch):
    before = resolved_packages(None)
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(_install(site, "made-here"))
    installed = {package.name for package in resolved_packages(None)}
    assert installed == {"made-here"} | {package.name for package in before}
    monkeypatch.syspath_prepend(_install(site / "ray" / "thirdparty_files", "made-psutil"))
    assert {package.name for package in resolved_packages(None)} == installed
    import ray  # noqa: F401 - puts copies of its own on the module path

    assert {package.name for package in resolved_packages(None)} == installed
