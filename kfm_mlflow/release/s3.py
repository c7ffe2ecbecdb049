"""A folder of an S3 bucket: list, stream, and write only bytes that have a given digest.

Reached through the client that MLflow makes (endpoint, addressing, TLS and upload arguments are
MLflow's own settings), so that MinIO, Ceph and others that speak S3 are the same case.

Invariants:

1. An object is written whole or not at all, and only when the bytes sent have the digest asked
   for: they are hashed from the very buffers that are sent.
2. Memory does not grow with the size of an object.
3. The vendor's errors leave here as :class:`StorageError`.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.beside import open_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from kfm_mlflow.release.manifest import FileEntry

_log = logging.getLogger(__name__)
PART_BYTES = 16 * 2**20
_MAX_PARTS = 10_000
_READ_BYTES = 2**20
_MISSING = frozenset({"NoSuchKey", "404"})
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_REMEDIES = {
    "AccessDenied": "allow the server s3:ListBucket, s3:GetObject and s3:PutObject there",
    "403": "allow the server s3:ListBucket, s3:GetObject and s3:PutObject there",
    "NoSuchBucket": "make the bucket, or correct --artifacts-destination",
    "InvalidAccessKeyId": "check the server's AWS credentials",
    "SignatureDoesNotMatch": "check the server's AWS credentials",
    "ExpiredToken": "renew the server's AWS credentials",
    "NoCredentialsError": "give the server AWS credentials",
    "PartialCredentialsError": "give the server AWS credentials",
    "EndpointConnectionError": "check MLFLOW_S3_ENDPOINT_URL and the network, and try again",
}


def storage_error(error: Exception, uri: str) -> StorageError:
    """Return what a caller is told about an error of botocore; the log has the vendor's words."""
    answer = getattr(error, "response", None)
    code = str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
    code = code or type(error).__name__
    _log.warning("%s: %s", uri, error)
    return StorageError(
        f"the object store failed ({code})", where=uri, remedy=_REMEDIES.get(code, "try again")
    )


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, ValueError, OSError) as exc:
        # ValueError and OSError: an endpoint that is no URL, a CA bundle that is not there.
        raise storage_error(exc, uri) from exc


def is_s3(uri: str) -> bool:
    """Return whether a URI names a folder of a bucket."""
    parsed = urlparse(uri)
    return parsed.scheme == "s3" and bool(parsed.netloc)


class S3Folder:
    """Objects below one prefix, by their path relative to it."""

    def __init__(self, uri: str, *, shown: str = "", part_bytes: int = PART_BYTES) -> None:
        """Reach a folder.

        Args:
            uri: ``s3://bucket/prefix``.
            shown: What errors call it; the URI when empty.
            part_bytes: How much is in memory at a time; objects up to this size are one request.

        Raises:
            StorageError: It is no folder of a bucket, boto3 is not installed, or MLflow's S3
                settings are wrong.
        """
        self.uri = uri.rstrip("/")
        self.shown = shown or self.uri
        self._part_bytes = part_bytes
        if not is_s3(uri):
            raise StorageError("is neither a folder nor an S3 bucket", where=uri)
        parsed = urlparse(self.uri)
        self._bucket, self._prefix = parsed.netloc, parsed.path.strip("/")
        try:
            import boto3  # noqa: F401 - MLflow imports it later, with a worse message
        except ImportError as exc:
            raise StorageError(
                "boto3 is not installed",
                where=self.shown,
                remedy="pip install 'kfm-mlflow[s3]' on the server",
            ) from exc
        from mlflow.environment_variables import MLFLOW_S3_EXPECTED_BUCKET_OWNER
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with _translated(self.shown):
            repository = get_artifact_repository(self.uri)
            self._client = repository._get_s3_client()  # noqa: SLF001 - MLflow's settings, read once
            self._upload: dict[str, Any] = repository.get_s3_file_upload_extra_args() or {}
        owner = MLFLOW_S3_EXPECTED_BUCKET_OWNER.get()
        self._owner: dict[str, str] = {"ExpectedBucketOwner": owner} if owner else {}

    def _object(self, path: str) -> dict[str, str]:
        key = f"{self._prefix}/{path}" if self._prefix else path
        return {"Bucket": self._bucket, "Key": key, **self._owner}

    def sizes(self, under: str) -> dict[str, int]:
        """Return path relative to ``under`` -> size in bytes, of every object there."""
        start = f"{self._object(under)['Key'].strip('/')}/"
        found: dict[str, int] = {}
        with _translated(self.shown):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start, **self._owner
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    path, size_bytes = item["Key"].removeprefix(start), int(item["Size"])
                    if (path.endswith("/") and size_bytes == 0) or not path:
                        continue  # How consoles mark a folder.
                    found[path] = size_bytes
        return found

    def read(self, path: str) -> Iterator[bytes]:
        """Stream an object.

        Raises:
            StorageError: It is missing or cannot be read.
        """
        with _translated(self.shown):
            body = self._client.get_object(**self._object(path))["Body"]
        try:
            while True:
                with _translated(self.shown):
                    chunk = body.read(_READ_BYTES)
                if not chunk:
                    return
                yield chunk
        finally:
            body.close()

    def digest(self, path: str, count: Callable[[int], None] = lambda _: None) -> str:
        """Return ``sha256:<hex>`` of an object, streamed; ``count`` is told of every chunk."""
        running = hashlib.sha256()
        for chunk in self.read(path):
            running.update(chunk)
            count(len(chunk))
        return f"sha256:{running.hexdigest()}"

    def read_small(self, path: str, max_bytes: int) -> bytes | None:
        """Return an object's bytes; None when there is none.

        Raises:
            StorageError: It is larger than ``max_bytes``, or cannot be read.
        """
        from botocore.exceptions import ClientError

        with _translated(self.shown):
            try:
                answer = self._client.get_object(**self._object(path))
            except ClientError as exc:
                if exc.response.get("Error", {}).get("Code") in _MISSING:
                    return None
                raise
            with answer["Body"] as body:
                data: bytes = body.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise StorageError(f"more than {max_bytes} bytes", where=f"{self.shown}/{path}")
        return data

    def put_bytes(self, path: str, data: bytes) -> None:
        """Write a small object."""
        with _translated(self.shown):
            self._client.put_object(**self._object(path), **self._upload, Body=data)

    def put(
        self,
        path: str,
        source: Path,
        entry: FileEntry,
        count: Callable[[int], None] = lambda _: None,
        *,
        only_new: bool = False,
    ) -> bool:
        """Write a file, if and only if it has the size and digest that its entry says.

        Args:
            path: Where to.
            source: The file.
            entry: What it must be; its path names it in errors.
            count: Told of every part that was sent.
            only_new: Write nothing where an object is already.

        Returns:
            False when ``only_new`` found one there.

        Raises:
            ManifestError: The file is no longer what the entry says; nothing was written.
            StorageError: The object store failed; nothing was written.
        """
        condition = {"IfNoneMatch": "*"} if only_new else {}
        part_bytes = max(self._part_bytes, -(-entry.size_bytes // _MAX_PARTS))
        with open_plain(source, entry.path) as stream:
            if entry.size_bytes > part_bytes:
                return self._put_parts(
                    path, stream, entry, part_bytes=part_bytes, count=count, condition=condition
                )
            data = stream.read(part_bytes + 1)
        _check(hashlib.sha256(data), entry)
        sent = self._unless_taken(
            self._client.put_object, **self._object(path), **self._upload, **condition, Body=data
        )
        count(len(data))
        return sent

    def _unless_taken(self, call: Callable[..., Any], **arguments: Any) -> bool:
        from botocore.exceptions import ClientError

        with _translated(self.shown):
            try:
                call(**arguments)
            except ClientError as exc:
                if exc.response.get("Error", {}).get("Code") in _TAKEN:
                    return False
                raise
        return True

    def _put_parts(
        self,
        path: str,
        stream: BinaryIO,
        entry: FileEntry,
        *,
        part_bytes: int,
        count: Callable[[int], None],
        condition: dict[str, str],
    ) -> bool:
        target = self._object(path)
        with _translated(self.shown):
            made = self._client.create_multipart_upload(**target, **self._upload)
        upload = {**target, "UploadId": made["UploadId"]}
        parts: list[dict[str, Any]] = []
        running = hashlib.sha256()
        try:
            while data := stream.read(part_bytes):
                running.update(data)
                number = len(parts) + 1
                with _translated(self.shown):
                    answer = self._client.upload_part(**upload, PartNumber=number, Body=data)
                checksums = {k: v for k, v in answer.items() if k.startswith("Checksum")}
                checksums.pop("ChecksumType", None)
                parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})
                count(len(data))
                if len(parts) * part_bytes > entry.size_bytes + part_bytes:
                    break  # It grows while it is read; the check below says so.
            _check(running, entry)
            done = self._unless_taken(
                self._client.complete_multipart_upload,
                **upload,
                **condition,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            self._abort(upload)
            raise
        if not done:
            self._abort(upload)
        return done

    def _abort(self, upload: dict[str, Any]) -> None:
        try:
            with _translated(self.shown):
                self._client.abort_multipart_upload(**upload)
        except StorageError as exc:
            # Invisible parts are left; the lifecycle rule of docs/freezing.md removes them.
            _log.warning("an upload was not aborted: %s", exc)


def _check(running: Any, entry: FileEntry) -> None:
    if f"sha256:{running.hexdigest()}" != entry.digest:
        raise ManifestError(
            "changed while it was copied", where=entry.path, remedy="try the move again"
        )
