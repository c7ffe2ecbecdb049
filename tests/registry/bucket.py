"""A bucket on this machine: moto's S3 server on loopback, and MLflow's settings that lead to it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "kfm-test"


@contextmanager
def s3_server() -> Iterator[Any]:
    """Run an S3 server with one empty bucket, and give a client of it that is not ours."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in [n for n in os.environ if n.startswith("AWS_")]:
                patch.delenv(name)
            patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
            client.create_bucket(Bucket=BUCKET)
            yield client
    finally:
        server.stop()


def objects(client: Any, prefix: str = "") -> dict[str, bytes]:
    """Return key -> bytes of every object below a prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def delete_objects(client: Any, prefix: str) -> None:
    """Delete every object below a prefix, as somebody with the bucket's keys can."""
    for key in objects(client, prefix):
        client.delete_object(Bucket=BUCKET, Key=key)
