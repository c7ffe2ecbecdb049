import collections
import os
import pickle
import zipfile

import pytest
import torch

from kfm_mlflow.release.pickle_scan import scan_checkpoint


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("true",))


def test_a_state_dict_is_plain(tmp_path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.save(
        {"format": "x", "config": {"width": 3}, "state_dict": net.state_dict()}, tmp_path / "m.pt"
    )
    assert scan_checkpoint(tmp_path / "m.pt") == []


def test_a_whole_module_is_not_plain(tmp_path) -> None:
    torch.save(torch.nn.Conv2d(1, 2, 3), tmp_path / "m.pt")
    assert any(
        "torch.nn.modules.conv.Conv2d" in problem for problem in scan_checkpoint(tmp_path / "m.pt")
    )


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_hidden_in_a_pickle_of_any_protocol_is_found(tmp_path, protocol) -> None:
    payload = pickle.dumps(collections.OrderedDict(a=Bomb()), protocol=protocol)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", payload)
    assert scan_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_what_cannot_be_scanned_is_a_problem(tmp_path, data) -> None:
    (tmp_path / "m.pt").write_bytes(data)
    assert scan_checkpoint(tmp_path / "m.pt")
