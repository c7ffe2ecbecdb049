"""Credentials and TLS settings: the same as MLflow's own client takes from the same places."""

from __future__ import annotations

import base64
import itertools

import pytest
import requests
from mlflow.utils.credentials import get_default_host_creds

from kfm_mlflow.errors import InputError, StorageError
from kfm_mlflow.rollout.login import load_login
from kfm_mlflow.rollout.remote import RemoteRegistry

URL = "https://registry.example.org"
VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
FILE = "[mlflow]\nmlflow_tracking_username = file-user\nmlflow_tracking_password = file-pass\n"


def prepared(login):
    request = requests.Request("GET", URL, auth=login.options.get("auth"))
    return request.prepare().headers.get("Authorization", "")


def theirs():
    """Return the header that MLflow's client would send (mlflow.utils.rest_utils.http_request)."""
    found = get_default_host_creds(URL)
    if found.username and found.password:
        both = f"{found.username}:{found.password}".encode()
        return "Basic " + base64.b64encode(both).decode()
    return f"Bearer {found.token}" if found.token else ""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*VARIABLES, "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)))
def test_credentials_are_those_that_mlflow_takes(home, monkeypatch, given, with_file):
    environ = {n: f"env-{n[-5:]}-é" for n, is_set in zip(VARIABLES, given, strict=True) if is_set}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if with_file:
        (home / ".mlflow").mkdir()
        (home / ".mlflow" / "credentials").write_text(FILE)
    login = load_login(environ, home)
    header = prepared(login)
    expected = theirs()
    if header.startswith("Basic "):
        assert base64.b64decode(header[6:]) == base64.b64decode(expected[6:])
    else:
        assert header == expected
    assert bool(login.username) == header.startswith("Basic ")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MLFLOW_TRACKING_INSECURE_TLS": "true"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "FALSE"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "1"},
        {"MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"},
    ],
)
def test_the_certificate_is_checked_as_mlflow_checks_it(home, monkeypatch, environ):
    monkeypatch.chdir(home)
    (home / "ca.pem").write_text("")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert load_login(environ, home).options.get("verify", True) == (
        get_default_host_creds(URL).verify
    )


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MLFLOW_TRACKING_INSECURE_TLS": "maybe"}, "must be true or false"),
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/no/such.pem"}, "there is no such file"),
        (
            {
                "MLFLOW_TRACKING_INSECURE_TLS": "true",
                "MLFLOW_TRACKING_SERVER_CERT_PATH": "/no/such.pem",
            },
            "unset one of them",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(home, environ, words):
    with pytest.raises(InputError, match=words):
        load_login(environ, home)


@pytest.mark.parametrize("written", ["no section", "[mlflow\n", "[mlflow]\n%%%\n", "\xff\xfe"])
def test_a_credentials_file_that_is_none_is_named(home, written):
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "credentials").write_bytes(written.encode("latin-1"))
    with pytest.raises(InputError, match=r"\.mlflow/credentials"):
        load_login({}, home)


def test_a_login_does_not_print_its_secret(home):
    login = load_login({VARIABLES[0]: "ann", VARIABLES[1]: "hunter2"}, home)
    token = load_login({VARIABLES[2]: "hunter2"}, home)
    for found in (login, token):
        assert "hunter2" not in repr(found)
        assert base64.b64encode(b"ann:hunter2").decode() not in repr(found)


def test_netrc_does_not_replace_the_credentials(home, monkeypatch):
    (home / ".netrc").write_text("machine registry.example.org login other password other\n")
    (home / ".netrc").chmod(0o600)
    login = load_login({VARIABLES[2]: "mine"}, home)
    session = requests.Session()
    sent = session.prepare_request(requests.Request("GET", URL, auth=login.options["auth"]))
    assert sent.headers["Authorization"] == "Bearer mine"


def test_a_certificate_that_nobody_trusts_says_what_to_do(tmp_path):
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    key, cert = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"rows": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    class Quiet(HTTPServer):
        def handle_error(self, *args: object) -> None: ...

    with Quiet(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"https://127.0.0.1:{server.server_port}"
        try:
            with pytest.raises(StorageError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
                RemoteRegistry(url)._call("GET", "ledger")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(cert))
                assert RemoteRegistry(url)._call("GET", "ledger") == {"rows": []}
        finally:
            server.shutdown()
            thread.join()


def _self_signed(folder):
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(private, hashes.SHA256())
    )
    key, cert = folder / "key.pem", folder / "cert.pem"
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key, cert
