"""Files of ``serving/deploy``: they load, Ray takes them, and ``kfm`` has the commands in them."""

import configparser
import shlex
from pathlib import Path

import click
import pytest
import yaml

from kfm_mlflow.cli.main import cli
from kfm_serving.cluster import _import_ray

DEPLOY = Path(__file__).resolve().parents[2] / "serving" / "deploy"
VALUES = {"%i": "climate-downscaler", "${KFM_PORT}": "8000", "${KFM_GPU_SHARE}": "0.5"}


def documents(name):
    return [item for item in yaml.safe_load_all((DEPLOY / name).read_text()) if item]


def parsed(words):
    """Return the options that a written command gives, as the command line itself reads them."""
    program, *rest = words
    assert Path(program).name == "kfm"
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.get_command(click.Context(command), name)
    return command.make_context(command.name, rest).params


def require_serve_config(value):
    """Validate as ``serve deploy`` and KubeRay's dashboard call do."""
    _import_ray()
    from ray.serve.schema import ServeDeploySchema

    found = ServeDeploySchema.model_validate(value)
    assert found.applications == []
    assert (found.http_options.host, found.http_options.port) == ("0.0.0.0", 8000)
    # Nothing that is written is silently not known.
    assert set(value["http_options"]) <= set(type(found.http_options).model_fields)
    return found


def containers(service):
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        (group["template"]["spec"], each)
        for group in groups
        for each in group["template"]["spec"]["containers"]
    ]


def test_the_serve_config_and_the_one_in_the_rayservice_are_valid_and_the_same():
    (config,) = documents("serve-config.yaml")
    require_serve_config(config)
    service = documents("rayservice.yaml")[0]
    embedded = yaml.safe_load(service["spec"]["serveConfigV2"])
    require_serve_config(embedded)
    assert embedded["http_options"] == config["http_options"]


def test_the_rayservice_runs_our_command_and_every_volume_and_claim_is_there():
    service, claim = documents("rayservice.yaml")
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    found = {each["name"]: each for _, each in containers(service)}
    options = parsed(found["kfm-rollout"]["command"])
    assert (options["model"], options["address"]) == ("climate-downscaler", "auto")
    assert options["gpu_share"] == 0.5
    for pod, each in containers(service):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in each["volumeMounts"]} <= set(volumes)
        assert (
            volumes["releases"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        )
        # What the controller verified is read from the same path by every replica.
        at = {mount["name"]: mount["mountPath"] for mount in each["volumeMounts"]}
        assert at["releases"] == str(options["cache_dir"])
    limits = found["ray-worker"]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_the_ray_of_the_cluster_is_the_one_that_the_package_takes():
    ray, _ = _import_ray()
    service = documents("rayservice.yaml")[0]
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_the_unit_runs_our_command_with_a_share_of_a_gpu():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "kfm-rollout@.service")
    line = unit["Service"]["ExecStart"]
    for name, value in VALUES.items():
        line = line.replace(name, value)
    assert "$" not in line
    options = parsed(shlex.split(line))
    assert (options["model"], options["port"], options["gpu_share"]) == (
        "climate-downscaler",
        8000,
        0.5,
    )
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.ray
def test_deploying_the_serve_config_leaves_what_the_controller_started_alone(fleet):
    from ray.serve.context import _get_global_client

    from kfm_serving import applications

    before = set(applications.statuses())
    (config,) = documents("serve-config.yaml")
    _get_global_client().deploy_apps(require_serve_config({**config, "logging_config": {}}))
    after = applications.statuses()
    assert {app: status.status for app, status in after.items()} == dict.fromkeys(before, "RUNNING")
    assert fleet.plane.deployed() >= {1, 2}
